"""To and from other formats. Installed as `convmixer_keras.convert`."""
