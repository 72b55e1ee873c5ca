// The times and durations of all requests, found by their types: what is tested for one of them is tested for all, a
// new one too.

import type { DescField, DescMessage, DescMethod, DescService } from "@bufbuild/protobuf";
import { DurationSchema, TimestampSchema, type Duration, type Timestamp } from "@bufbuild/protobuf/wkt";

/** A message that is being put together. */
export type Message = Record<string, unknown>;

/** A field of a method's request, by the fields that lead to it. */
export interface TimeField {
  readonly service: DescService;
  readonly method: DescMethod;
  readonly path: readonly DescField[];
  readonly kind: "Timestamp" | "Duration";
}

/** All of these services' methods. */
export function timeFieldsOf(services: readonly DescService[]): readonly TimeField[] {
  return services.flatMap((service) =>
    service.methods.flatMap((method) =>
      pathsIn(method.input, []).map((path) => ({ service, method, path, kind: kindOf(path) })),
    ),
  );
}

/** As errors name it. */
export function nameOf({ path }: TimeField): string {
  return path.map((field) => (field.fieldKind === "list" ? `${field.name}[0]` : field.name)).join(".");
}

/** A request with this value in the field; `basis` gives what else the messages on the way to it need. */
export function requestWith(
  { method, path }: TimeField,
  value: Timestamp | Duration,
  basis: (message: DescMessage) => Message,
): Message {
  const place = (message: DescMessage, [field, ...rest]: readonly DescField[]): Message => {
    const own = basis(message);
    if (field === undefined) return own;
    const inner = rest.length === 0 || field.message === undefined ? value : place(field.message, rest);
    const placed = field.fieldKind === "list" ? [inner] : inner;
    return field.oneof === undefined
      ? { ...own, [field.localName]: placed }
      : { ...own, [field.oneof.localName]: { case: field.localName, value: placed } };
  };
  return place(method.input, path);
}

function pathsIn(message: DescMessage, before: readonly DescField[]): readonly (readonly DescField[])[] {
  return message.fields.flatMap((field) => {
    if (field.message === undefined || before.includes(field)) return [];
    const path = [...before, field];
    return isTime(field.message) ? [path] : pathsIn(field.message, path);
  });
}

function isTime({ typeName }: DescMessage): boolean {
  return typeName === TimestampSchema.typeName || typeName === DurationSchema.typeName;
}

function kindOf(path: readonly DescField[]): TimeField["kind"] {
  return path.at(-1)?.message?.typeName === DurationSchema.typeName ? "Duration" : "Timestamp";
}
