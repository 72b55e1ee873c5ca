// What an operator can mend, and is told in one sentence, without a stack.

/** Why a command or a start can't go on; its message says what to do. */
export abstract class Problem extends Error {}

/** The service must not be started with this configuration or database. */
export class StartupProblem extends Problem {}
