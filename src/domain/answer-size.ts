// How large an answer may be. Clients of gRPC take 4 MiB for one message unless they are told otherwise.

/** No answer has more bytes, in protobuf's encoding. */
export const ANSWER_BYTES = 3.5 * 1024 * 1024;

/**
 * A row with more bytes than this is in no answer as it is: beside it there must be room for what else the answer says.
 */
export const LARGEST_ROW = 3 * 1024 * 1024;

/** What a job has in an answer beside its long texts: numbers, times, amounts, and its worker's name; at most. */
export const REST_OF_JOB = 1500;
