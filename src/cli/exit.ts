// How a command ends: its exit code, what it prints, which errors an operator can mend, and the signals that end it early.

import { failureOf } from "../postgres/connection/errors.ts";
import { Problem } from "../domain/problem.ts";

/** The work failed. */
export const FAILED = 1;
/** The command line or the configuration is wrong. */
export const MISUSED = 2;

/** A command was asked to end before it was done. */
class Interrupted extends Problem {}

/** What an operator is told of an error, if one line says all: what can be mended, or that the database went away. */
export function sentenceOf(error: unknown): string | undefined {
  // What failed first matters, not what couldn't be put away after that.
  if (error instanceof SuppressedError) return sentenceOf(error.suppressed) ?? sentenceOf(error.error);
  if (error instanceof Problem) return error.message;
  if (!(error instanceof Error) || failureOf(error) === undefined) return undefined;
  return `the database went away while it was needed: ${reasonOf(error)}; see that it is well, and try again`;
}

/** What lies behind an error. */
function reasonOf(error: Error): string {
  return error.cause instanceof Error ? reasonOf(error.cause) : error.message.trim();
}

/** Ends well, with this on standard output. */
export function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

/** Ends with these lines on standard error. */
export function complain(lines: readonly string[], code = MISUSED): number {
  process.stderr.write(lines.map((line) => `ledgerd: ${line}\n`).join(""));
  return code;
}

/** Resolves at the first signal to end. A second one changes nothing: the first one's end is under way. */
export async function toldToStop(): Promise<NodeJS.Signals> {
  const signals = ["SIGTERM", "SIGINT"] as const;
  return new Promise((resolve) => signals.forEach((signal) => process.on(signal, () => resolve(signal))));
}

/** Is aborted at the first signal to end; the advice is what the operator is told with that. */
export function stopSignal(advice?: string): AbortSignal {
  const stopping = new AbortController();
  void toldToStop().then((signal) => stopping.abort(new Interrupted(`ended by ${signal}${advice === undefined ? "" : `; ${advice}`}`)));
  return stopping.signal;
}
