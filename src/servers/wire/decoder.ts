// Requests in protobuf: looked at for too much, and then built.

import { fromBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { errorOfViolations } from "../../rpc/errors.ts";
import { counterOf } from "./wire-count.ts";

/** Fields of later versions: nobody asks for them here. */
const OPTIONS = { readUnknownFields: false };

/** What throws where a request of a type holds more than it may; it builds nothing. */
export function admissionOf(desc: DescMessage): (bytes: Uint8Array) => void {
  const tooMuchIn = counterOf(desc);
  return (bytes) => {
    const tooMuch = tooMuchIn(bytes);
    if (tooMuch !== undefined) throw errorOfViolations([tooMuch]);
  };
}

/** What reads requests of a type. Throws an error for the caller where bytes are none, or hold more than one may. */
export function decoderOf<D extends DescMessage>(desc: D): (bytes: Uint8Array) => MessageShape<D> {
  const admit = admissionOf(desc);
  return (bytes) => {
    admit(bytes);
    try {
      return fromBinary(desc, bytes, OPTIONS);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw errorOfViolations([{ field: "", description: `not a ${desc.typeName}: ${why}` }]);
    }
  };
}
