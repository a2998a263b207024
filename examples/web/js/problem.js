/** An error whose message is written for the person in front of the page. */
export class Problem extends Error {}

/**
 * @param {unknown} error
 * @returns {string} The first line of its message.
 */
export function firstLine(error) {
  return String(error?.message ?? error).split('\n')[0];
}
