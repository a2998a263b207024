/** The EXIF orientation of a JPEG file. Format: CIPA DC-008 (Exif 2.3), sections 4.5.4 and 4.6.2. */

const START = 0xffd8;
const APP1 = 0xe1;
const SCAN = 0xda;
const EXIF = [0x45, 0x78, 0x69, 0x66, 0, 0];
const ORIENTATION = 0x0112;
const LITTLE_ENDIAN = 0x4949;

/**
 * @param {Uint8Array} bytes A file.
 * @returns {Uint8Array} The same, but that a JPEG file asks for no turn.
 */
export function withoutOrientation(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    if (view.getUint16(0) !== START) return bytes;
    for (let at = 2; bytes[at] === 0xff && bytes[at + 1] !== SCAN; at += 2 + view.getUint16(at + 2)) {
      if (bytes[at + 1] === APP1 && EXIF.every((byte, i) => bytes[at + 4 + i] === byte)) clear(view, at + 10);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // The file ends too early: decoding will say so.
  }
  return bytes;
}

/**
 * @param {DataView} view
 * @param {number} start Of the EXIF data, a TIFF file in itself.
 */
function clear(view, start) {
  const little = view.getUint16(start) === LITTLE_ENDIAN;
  const directory = start + view.getUint32(start + 4, little);
  const count = view.getUint16(directory, little);
  for (let i = 0; i < count; i++) {
    const entry = directory + 2 + 12 * i;
    if (view.getUint16(entry, little) === ORIENTATION) view.setUint16(entry + 8, 1, little);
  }
}
