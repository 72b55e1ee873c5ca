// A request of any type that would be answered well, and all that it becomes when one of its fields has another
// value.

import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { StructSchema } from "@bufbuild/protobuf/wkt";

/** A message as `create` takes it. */
export type Init = Readonly<Record<string, unknown>>;

/** What the fields of a request usually are, by their names, or of one type by `<type>.<name>`; others are absent. */
export type Usual = Readonly<Record<string, unknown>>;

/** The usual request of a type; of a choice, the first one that has something usual. */
export function usualRequest(desc: DescMessage, usual: Usual): Init {
  const valueOf = (name: string): unknown => {
    const own = `${desc.name}.${name}`;
    return own in usual ? usual[own] : usual[name];
  };
  const members = desc.members.map((member) => {
    if (member.kind === "field") return [member.localName, valueOf(member.name)] as const;
    const chosen = member.fields.find(({ name }) => valueOf(name) !== undefined);
    return [
      member.localName,
      chosen === undefined ? undefined : { case: chosen.localName, value: valueOf(chosen.name) },
    ] as const;
  });
  return Object.fromEntries(members.filter(([, value]) => value !== undefined));
}

/** The fields of a type and of all that is nested in it, each with what puts a value there. */
export function placesOf(
  desc: DescMessage,
  usual: Usual,
  base: Init = usualRequest(desc, usual),
  at = "",
): readonly Place[] {
  return desc.fields.flatMap((field) => {
    const path = at === "" ? field.name : `${at}.${field.name}`;
    const put = (value: unknown): Init =>
      field.oneof === undefined
        ? { ...base, [field.localName]: value }
        : { ...base, [field.oneof.localName]: { case: field.localName, value } };
    const { message } = field;
    const here = { path, field, put };
    if (message === undefined || message === StructSchema || message.typeName.startsWith("google.protobuf."))
      return [here];
    const isList = field.fieldKind === "list";
    const inner = innerBase(field, message, base, usual);
    const places = placesOf(message, usual, inner, isList ? `${path}[0]` : path);
    return [
      here,
      ...places.map((place) => ({
        ...place,
        put: (value: unknown) => put(isList ? [place.put(value)] : place.put(value)),
      })),
    ];
  });
}

/** Where a value may be put. */
export interface Place {
  readonly path: string;
  readonly field: DescField;
  readonly put: (value: unknown) => Init;
}

function innerBase(field: DescField, message: DescMessage, base: Init, usual: Usual): Init {
  const given = field.oneof === undefined ? base[field.localName] : undefined;
  const one = field.fieldKind === "list" ? (given as readonly Init[] | undefined)?.[0] : (given as Init | undefined);
  return one ?? (usual[field.name] as Init | undefined) ?? usualRequest(message, usual);
}
