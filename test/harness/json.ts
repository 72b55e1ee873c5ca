// Messages as JSON, in all the ways in which the mapping lets a client write them.

import {
  ScalarType,
  toJson,
  type DescMessage,
  type JsonObject,
  type JsonValue,
  type MessageShape,
} from "@bufbuild/protobuf";

/** How the fields of a message are named, and how its integers are written. */
export interface Style {
  readonly names: "proto" | "camel";
  readonly integers: "strings" | "numbers" | "fractions";
}

/** All of them. */
export const styles: readonly Style[] = (["proto", "camel"] as const).flatMap((names) =>
  (["strings", "numbers", "fractions"] as const).map((integers) => ({ names, integers })),
);

/** A message as JSON, written in a style. */
export function jsonTextOf<Desc extends DescMessage>(
  desc: Desc,
  message: MessageShape<Desc>,
  { names, integers }: Style,
): string {
  return JSON.stringify(restyled(desc, toJson(desc, message, { useProtoFieldName: names === "proto" }), integers));
}

/** What `JSON.stringify` writes as it stands. */
type Raw = unknown;

function restyled(desc: DescMessage, json: JsonValue, integers: Style["integers"]): Raw {
  if (desc.typeName.startsWith("google.protobuf.")) return json;
  const entries = Object.entries(json as JsonObject).map(([name, value]) => {
    const field = desc.fields.find((one) => one.name === name || one.jsonName === name);
    const restyle = (one: JsonValue): Raw => {
      if (field?.message !== undefined && field.fieldKind !== "map") return restyled(field.message, one, integers);
      return isInteger(field?.scalar) ? integerText(JSON.stringify(one).replaceAll('"', ""), integers) : one;
    };
    return [name, Array.isArray(value) ? value.map(restyle) : restyle(value)] as const;
  });
  return Object.fromEntries(entries);
}

function isInteger(scalar: ScalarType | undefined): boolean {
  return scalar === ScalarType.INT64 || scalar === ScalarType.INT32;
}

function integerText(digits: string, integers: Style["integers"]): Raw {
  if (integers === "strings") return digits;
  return rawJson(integers === "numbers" ? digits : `${digits}.0e0`);
}

/** A number with all its digits: Node has the function, TypeScript doesn't know it yet. */
function rawJson(text: string): Raw {
  return (JSON as unknown as { readonly rawJSON: (text: string) => Raw }).rawJSON(text);
}
