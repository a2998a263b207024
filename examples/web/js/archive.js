/**
 * Reading the zip archive that stands at the end of a file, behind other content.
 *
 * convmixer-tflite puts class names and input conventions there. Format: APPNOTE.TXT of PKWARE,
 * sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (its end record).
 */

const END_RECORD = 0x06054b50;
const END_RECORD_SIZE = 22;
const LONGEST_COMMENT = 0xffff;
const DIRECTORY_ENTRY = 0x02014b50;
const STORED = 0;
const DEFLATED = 8;

/**
 * @param {Uint8Array} bytes A whole file.
 * @returns {Promise<Map<string, string>>} Text by entry name; empty where the file ends in no archive.
 */
export async function readArchive(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = findEndRecord(view);
  const texts = new Map();
  if (end < 0) return texts;
  const count = view.getUint16(end + 10, true);
  const directorySize = view.getUint32(end + 12, true);
  // Offsets count from the start of the archive for some writers, from that of the file for others.
  const start = end - directorySize - view.getUint32(end + 16, true);
  let at = end - directorySize;
  for (let i = 0; i < count; i++) {
    if (view.getUint32(at, true) !== DIRECTORY_ENTRY) throw new RangeError('not a directory entry');
    const method = view.getUint16(at + 10, true);
    const size = view.getUint32(at + 20, true);
    const nameLength = view.getUint16(at + 28, true);
    const local = start + view.getUint32(at + 42, true);
    const name = decode(bytes.subarray(at + 46, at + 46 + nameLength));
    // The local header repeats the name, with extra fields of its own length.
    const content = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    texts.set(name, decode(await inflate(bytes.subarray(content, content + size), method)));
    at += 46 + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return texts;
}

/**
 * @param {DataView} view
 * @returns {number} Its offset, or -1.
 */
function findEndRecord(view) {
  const last = view.byteLength - END_RECORD_SIZE;
  for (let at = last; at >= Math.max(0, last - LONGEST_COMMENT); at--) {
    if (view.getUint32(at, true) === END_RECORD) return at;
  }
  return -1;
}

/**
 * @param {Uint8Array} content
 * @param {number} method
 * @returns {Promise<Uint8Array>}
 */
async function inflate(content, method) {
  if (method === STORED) return content;
  if (method !== DEFLATED) throw new RangeError(`compression method ${method}`);
  const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 */
function decode(bytes) {
  return new TextDecoder().decode(bytes);
}
