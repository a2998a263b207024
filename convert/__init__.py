"""To and from other formats. In the checkout a room of its own, installed as `convmixer_keras.convert`."""
