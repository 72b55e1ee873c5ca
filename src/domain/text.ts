// Which texts are kept. Their lengths are in characters: Unicode code points, as the contract and PostgreSQL count them. JavaScript's own
// `length` counts an emoji twice.

/** Whether a text has more than so many characters. */
export function isLonger(text: string, most: number): boolean {
  // A character has one unit of JavaScript's or two: most texts need no counting.
  if (text.length <= most) return false;
  return text.length > 2 * most || unitsOf(text, most) < text.length;
}

/** The first characters of a text, so many at most. */
export function firstOf(text: string, most: number): string {
  return text.length <= most ? text : text.slice(0, unitsOf(text, most));
}

/** Of what a caller sent, an error shows so many characters at most. */
const MOST_SHOWN = 64;

/** A name of a caller's as an error shows it: its first 64 characters. */
export function shownName(name: string): string {
  return firstOf(name, MOST_SHOWN).toWellFormed();
}

/** What a caller sent, as the text of an error quotes it: its first 64 characters, and a mark if there were more. */
export function quote(text: string): string {
  return `"${shownName(text)}${isLonger(text, MOST_SHOWN) ? "…" : ""}"`;
}

/** How many units the first characters of a text have. */
function unitsOf(text: string, characters: number): number {
  let units = 0;
  for (let count = 0; count < characters && units < text.length; count += 1)
    units += (text.codePointAt(units) ?? 0) > 0xffff ? 2 : 1;
  return units;
}

/** Whether PostgreSQL can store it as text, and protobuf carry it. */
export function isStorable(text: string): boolean {
  return !text.includes("\0") && text.isWellFormed();
}

/**
 * A report that something failed, as it can be kept: it must not be refused for its wording, or the failure itself
 * would be lost. What PostgreSQL can't store is replaced by U+FFFD; what is too long is cut, and says so at its end.
 */
export function reportOf(text: string, most: number): string {
  const mended = text.toWellFormed().replaceAll("\0", "\uFFFD");
  if (!isLonger(mended, most)) return mended;
  const mark = `… (cut at ${most.toLocaleString("en")} characters)`;
  return firstOf(mended, most - mark.length) + mark;
}
