// The tar format (POSIX ustar), as far as an archive needs it: so that standard tools look into one. Written in one way only, and read strictly: a
// byte of a header or between entries that is otherwise than it is written here is noticed.

import type { FileHandle } from "node:fs/promises";

/** A file in a tar file: where its bytes begin. */
export interface Entry {
  readonly name: string;
  readonly size: number;
  readonly offset: number;
}

/** The file is not such a tar file: it was cut off or altered, or never was one. */
export class TarProblem extends Error {}

const BLOCK = 512;
/** Two empty blocks end a tar file. */
const END = 2 * BLOCK;
/** What eleven octal digits can say. */
const LARGEST_SIZE = 8 ** 11 - 1;
const LONGEST_NAME = 100;

/** What precedes an entry's bytes. The time is in seconds since 1970. */
export function tarHeader(name: string, size: number, time: number): Buffer {
  if (Buffer.byteLength(name) > LONGEST_NAME || size > LARGEST_SIZE) throw new RangeError(`a tar file can't take ${name} of ${size} bytes`);
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, "0")}\0`;
  header.write(name, 0);
  // Readable by its owner alone; of nobody in particular.
  header.write(octal(0o600, 7), 100);
  header.write(octal(0, 7), 108);
  header.write(octal(0, 7), 116);
  header.write(octal(size, 11), 124);
  header.write(octal(time, 11), 136);
  // The checksum's own place counts as blanks.
  header.write("        ", 148);
  header.write("0", 156);
  header.write("ustar\u{0}00", 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${octal(sum, 6)} `, 148);
  return header;
}

/** What follows an entry's bytes. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);
}

/** What ends the file. */
export function tarEnd(): Buffer {
  return Buffer.alloc(END);
}

/**
 * The entries of a file of so many bytes, and no more than `most` of them. Throws `TarProblem` where anything but their
 * own bytes isn't exactly as it is written here: so links, folders and sizes in other notations are refused as well.
 */
export async function readEntries(file: FileHandle, length: number, most: number): Promise<readonly Entry[]> {
  const entries: Entry[] = [];
  let at = 0;
  while (at < length - END) {
    const header = await readAt(file, at, BLOCK);
    const entry = parseHeader(header, at + BLOCK);
    const padding = tarPadding(entry.size);
    const end = entry.offset + entry.size;
    if (end + padding.length + END > length) throw new TarProblem(`it ends within ${entry.name}`);
    if (!padding.equals(await readAt(file, end, padding.length))) throw new TarProblem(`there is something behind ${entry.name}`);
    if (entries.length === most) throw new TarProblem(`it has more than ${most} entries`);
    entries.push(entry);
    at = end + padding.length;
  }
  if (at !== length - END || !tarEnd().equals(await readAt(file, at, END))) throw new TarProblem("it has no proper end");
  return entries;
}

/** So many bytes of a file. */
export async function readAt(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(length), 0, length, offset);
  if (bytesRead !== length) throw new TarProblem(`it ends at byte ${offset + bytesRead}`);
  return buffer;
}

function parseHeader(header: Buffer, offset: number): Entry {
  const text = (from: number, to: number): string => header.toString("utf8", from, to).replace(/\0.*$/s, "");
  const [name, size, time] = [text(0, LONGEST_NAME), Number.parseInt(text(124, 136), 8), Number.parseInt(text(136, 148), 8)];
  const isOurs = name !== "" && size >= 0 && time >= 0 && tarHeader(name, size, time).equals(header);
  if (!isOurs) throw new TarProblem(`there is no entry at byte ${offset - BLOCK}`);
  return { name, size, offset };
}
