// Texts as UTF-8, written to where they belong.

/** Of a character (of UTF-16) in UTF-8. */
export const MOST_BYTES = 3;

/** Characters of a shorter text are written one by one: that is faster than to have it encoded. */
const SHORT_TEXT = 24;
const LAST_ASCII = 0x7f;

/** Writes a text where there is room for `MOST_BYTES` of each of its characters. Answers where it ends. */
export function writeText(bytes: Buffer, start: number, text: string): number {
  const { length } = text;
  if (length > SHORT_TEXT) return start + bytes.write(text, start);
  let bits = 0;
  for (let index = 0; index < length; index++) {
    const code = text.charCodeAt(index);
    bits |= code;
    bytes[start + index] = code;
  }
  return bits > LAST_ASCII ? start + bytes.write(text, start) : start + length;
}
