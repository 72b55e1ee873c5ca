// Decimal numbers as PostgreSQL writes them, of any of its types: `-12.50`, `1.5e+06`. Read digit by digit, never as a
// float.

/** The digits of a number before its point, with its sign, and those behind it. */
export interface Decimal {
  readonly whole: string;
  readonly fraction: string;
}

const number = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]?\d{1,4}))?$/;

/** The digits of a number; undefined for what is none: NaN, Infinity, other texts. */
export function decimalOf(text: string): Decimal | undefined {
  const match = number.exec(text);
  if (match === null) return undefined;
  const [, sign = "", before = "", behind = "", exponent = "0"] = match;
  const figures = before + behind;
  const point = before.length + Number(exponent);
  if (point <= 0) return { whole: `${sign}0`, fraction: "0".repeat(-point) + figures };
  return { whole: sign + figures.slice(0, point).padEnd(point, "0"), fraction: figures.slice(point) };
}
