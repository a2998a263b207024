/**
 * How a JPEG, PNG or WebP file asks to be turned. Browsers differ in which formats they turn, and cannot be told to
 * leave all of them as stored, so the request is read here and taken out of the file.
 *
 * Formats: CIPA DC-008 (Exif 2.3), sections 4.5.4 and 4.6.2; the eXIf and iTXt chunks of PNG (W3C, third edition);
 * WebP's container specification. XMP's tiff:Orientation counts where EXIF has none, as in Pillow.
 */

const ORIENTATION = 0x0112;
const LITTLE_ENDIAN = 0x4949;

/**
 * @typedef {object} Part
 * @property {boolean} isExif Otherwise it is XMP.
 * @property {number} start Where the part begins in the file, its header included.
 * @property {number} content Where its content begins.
 * @property {number} end
 */

/**
 * @param {Uint8Array} bytes A file.
 * @returns {{orientation: number, stored: Blob}} The orientation, 1 to 8, and a file of the same pixels that asks for
 *   no turn.
 */
export function readOrientation(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  try {
    for (const part of partsOf(bytes, view)) parts.push(part);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // The file ends too early: decoding will say so.
  }
  const orientations = [
    ...parts.filter((part) => part.isExif).map((part) => fromExif(view, part.content)),
    ...parts.filter((part) => !part.isExif).map((part) => fromXmp(bytes.subarray(part.content, part.end))),
  ];
  const orientation = orientations.find((value) => value !== null) ?? 1;
  const pieces = [];
  let at = 0;
  for (const {isExif, start, end} of parts) {
    if (!isExif) continue;
    pieces.push(bytes.subarray(at, start));
    at = end;
    if (hasName(bytes, 0, 'RIFF')) pieces.push('none', bytes.subarray(start + 4, end)); // The file states its length.
  }
  pieces.push(bytes.subarray(at));
  return {orientation: orientation >= 1 && orientation <= 8 ? orientation : 1, stored: new Blob(pieces)};
}

/** @returns {Iterable<Part>} */
function partsOf(bytes, view) {
  if (hasName(bytes, 0, '\xff\xd8')) return jpegParts(bytes, view);
  if (hasName(bytes, 0, '\x89PNG')) return pngParts(bytes, view);
  if (hasName(bytes, 0, 'RIFF') && hasName(bytes, 8, 'WEBP')) return webpParts(bytes, view);
  return [];
}

function* jpegParts(bytes, view) {
  const [app1, scan] = [0xe1, 0xda];
  for (let start = 2, end; bytes[start] === 0xff && bytes[start + 1] !== scan; start = end) {
    end = start + 2 + view.getUint16(start + 2);
    if (bytes[start + 1] !== app1) continue;
    const [exif, xmp] = ['Exif\0\0', 'http://ns.adobe.com/xap/1.0/\0'];
    if (hasName(bytes, start + 4, exif)) yield {isExif: true, start, content: start + 4 + exif.length, end};
    if (hasName(bytes, start + 4, xmp)) yield {isExif: false, start, content: start + 4 + xmp.length, end};
  }
}

function* pngParts(bytes, view) {
  for (let start = 8, end; start < bytes.length; start = end) {
    const content = start + 8;
    end = content + view.getUint32(start) + 4; // A checksum follows.
    if (hasName(bytes, start + 4, 'eXIf')) yield {isExif: true, start, content, end};
    if (hasName(bytes, start + 4, 'iTXtXML:com.adobe.xmp\0')) yield {isExif: false, start, content, end};
  }
}

function* webpParts(bytes, view) {
  for (let start = 12, end; start < bytes.length; start = end) {
    let content = start + 8;
    const size = view.getUint32(start + 4, true);
    end = content + size + (size % 2);
    if (hasName(bytes, start, 'XMP ')) yield {isExif: false, start, content, end};
    if (!hasName(bytes, start, 'EXIF')) continue;
    if (hasName(bytes, content, 'Exif\0\0')) content += 6; // Some writers repeat what JPEG files have there.
    yield {isExif: true, start, content, end};
  }
}

/**
 * @param {DataView} view
 * @param {number} start Of the EXIF data, a TIFF file in itself.
 * @returns {number | null} Null where it says nothing, or is damaged.
 */
function fromExif(view, start) {
  try {
    const little = view.getUint16(start) === LITTLE_ENDIAN;
    const directory = start + view.getUint32(start + 4, little);
    const count = view.getUint16(directory, little);
    for (let i = 0; i < count; i++) {
      const entry = directory + 2 + 12 * i;
      if (view.getUint16(entry, little) === ORIENTATION) return view.getUint16(entry + 8, little);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return null;
}

/**
 * @param {Uint8Array} bytes
 * @returns {number | null}
 */
function fromXmp(bytes) {
  const found = /tiff:Orientation(?:="|>)([0-9])/.exec(new TextDecoder().decode(bytes));
  return found && Number(found[1]);
}

/**
 * @param {Uint8Array} bytes
 * @param {number} at
 * @param {string} name Of characters up to 255.
 * @returns {boolean} Whether the bytes at that place are the name.
 */
function hasName(bytes, at, name) {
  return Array.from(name).every((character, i) => bytes[at + i] === character.charCodeAt(0));
}
