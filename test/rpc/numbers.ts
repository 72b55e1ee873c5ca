// A type with an integer of every kind, in every place where one can be: more than the contract uses.

import { create, createFileRegistry, type DescMessage, type MessageInitShape } from "@bufbuild/protobuf";
import {
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
  FileDescriptorProtoSchema,
  file_google_protobuf_wrappers,
  type FieldDescriptorProtoSchema,
} from "@bufbuild/protobuf/wkt";

const kinds = ["int", "sint", "sfixed", "uint", "fixed"].flatMap((kind) => [`${kind}32`, `${kind}64`]);

type Field = MessageInitShape<typeof FieldDescriptorProtoSchema>;

/** What one field has that others don't. */
interface More {
  readonly type?: Type;
  readonly label?: Label;
  readonly typeName?: string;
  readonly oneofIndex?: number;
}

function field(name: string, number: number, more: More = {}): Field {
  const jsonName = name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  return { name, jsonName, number, type: Type.INT64, label: Label.OPTIONAL, ...more };
}

function message(name: string, number: number, typeName: string, more: More = {}): Field {
  return field(name, number, { type: Type.MESSAGE, typeName, ...more });
}

const file = create(FileDescriptorProtoSchema, {
  name: "numbers.proto",
  package: "test",
  syntax: "proto3",
  dependency: [file_google_protobuf_wrappers.proto.name],
  messageType: [
    {
      name: "Numbers",
      field: [
        ...kinds.map((kind, index) => field(kind, index + 1, { type: Type[kind.toUpperCase() as "INT32"] })),
        field("many", 20, { label: Label.REPEATED }),
        message("by_name", 21, ".test.Numbers.ByNameEntry", { label: Label.REPEATED }),
        field("chosen", 22, { oneofIndex: 0 }),
        message("inner", 23, ".test.Numbers"),
        message("wrapped", 24, ".google.protobuf.Int64Value"),
        message("unsigned_wrapped", 25, ".google.protobuf.UInt64Value"),
      ],
      nestedType: [
        {
          name: "ByNameEntry",
          field: [field("key", 1, { type: Type.STRING }), field("value", 2)],
          options: { mapEntry: true },
        },
      ],
      oneofDecl: [{ name: "choice" }],
    },
  ],
});

/** The type: `int32` to `fixed64`, `many`, `by_name`, `chosen` (out of one), `inner`, `wrapped`, `unsigned_wrapped`. */
export const numbers = typeOf("test.Numbers");

function typeOf(name: string): DescMessage {
  const desc = createFileRegistry(file, () => file_google_protobuf_wrappers.proto).getMessage(name);
  if (desc === undefined) throw new Error(`there is no ${name}`);
  return desc;
}
