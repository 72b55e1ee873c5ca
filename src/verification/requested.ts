// Verifications and rebuilds within a process that serves: those that callers ask for, one at a time, and the one that goes on in the background.

import type { DatabasePool } from "slonik";
import type { Currencies } from "../domain/money/currency.ts";
import { verificationsOf, type Verifications } from "./sql/verifications.ts";
import type { Finding } from "./finding.ts";
import { rebuildLedger, type RebuildEvent } from "./rebuild.ts";
import type { VerifyEvent } from "./events.ts";
import { verifyLedger } from "./verify.ts";

/** The ledger that is verified, by connections that callers' reads don't need. */
export interface ProofOptions {
  readonly url: string;
  readonly pool: DatabasePool;
  readonly currencies: Currencies;
  readonly connectTimeoutMs: number;
}

/** A process opens so many connections of its own for verifications: for one in the background, and for one that is asked for. */
export const PROOF_CONNECTIONS = 2;

/** What callers ask for. */
export class Proofs {
  readonly #options: ProofOptions;
  readonly #verifications: Verifications;
  #isBusy = false;

  constructor(options: ProofOptions) {
    this.#options = options;
    this.#verifications = verificationsOf(options.pool);
  }

  /** Verifies until its end, or that of the signal; undefined: this process has such work already. */
  verify(signal: AbortSignal): AsyncGenerator<VerifyEvent, void> | undefined {
    return this.#alone(() => this.#recorded(signal));
  }

  /** Rebuilds; undefined: this process has such work already. */
  rebuild(trustLog: boolean, signal: AbortSignal): AsyncGenerator<RebuildEvent, void> | undefined {
    return this.#alone(() => rebuildLedger({ ...this.#options, trustLog, signal }));
  }

  async *#recorded(signal: AbortSignal): AsyncGenerator<VerifyEvent, void> {
    for await (const event of verifyLedger({ ...this.#options, signal })) {
      if (event.kind === "summary") await this.#verifications.finished("requested", event.summary);
      yield event;
    }
  }

  #alone<T>(begin: () => AsyncGenerator<T, void>): AsyncGenerator<T, void> | undefined {
    if (this.#isBusy) return undefined;
    this.#isBusy = true;
    const leave = (): void => {
      this.#isBusy = false;
    };
    return (async function* () {
      try {
        yield* begin();
      } finally {
        leave();
      }
    })();
  }
}

/** How long one round of the background's verification goes on before it is seen whether it is still this instance's turn. */
const ROUND_MS = 2000;
/** Of one verification, so many differences are logged. */
const LOGGED = 100;

/** How the background's verification works. */
export interface BackgroundOptions extends ProofOptions {
  readonly rowsPerSecond: number;
  /** Before it begins, and begins anew. */
  readonly pauseMs: number;
  /** How long a round is. */
  readonly roundMs?: number;
  /** Is told of differences. */
  readonly log: (finding: Finding) => void;
}

/** The verification that never ends: when it has gone through the ledger it rests, and begins anew. */
export class BackgroundProof {
  readonly #options: BackgroundOptions;
  readonly #verifications: Verifications;
  readonly #stopping = new AbortController();
  #running: AsyncGenerator<VerifyEvent, void> | undefined;
  /** The lease in which it was begun. */
  #token = 0n;
  /** Of the verification at hand, and of those before it. */
  #rows = 0;
  #rowsBefore = 0;
  #restUntil: number;
  #differences = 0;
  #recorded = 0;

  constructor(options: BackgroundOptions) {
    this.#options = options;
    this.#verifications = verificationsOf(options.pool);
    this.#restUntil = performance.now() + options.pauseMs;
  }

  /** How many transactions it has gone through since the process began. */
  get rows(): number {
    return this.#rowsBefore + this.#rows;
  }

  /** Goes on for a while, under a lease. What was begun under another is begun anew: it would end with what it saw before others verified. */
  async round(token: bigint): Promise<void> {
    if (token !== this.#token) await this.#drop();
    this.#token = token;
    if (this.#running === undefined && performance.now() < this.#restUntil) return;
    const { signal } = this.#stopping;
    this.#running ??= verifyLedger({ ...this.#options, signal });
    const until = performance.now() + (this.#options.roundMs ?? ROUND_MS);
    try {
      while (performance.now() < until) {
        const { done, value } = await this.#running.next();
        if (done === true) return this.#end();
        await this.#take(value);
      }
    } catch (error) {
      await this.#record().finally(() => this.#end());
      if (!signal.aborted) throw error;
    }
    await this.#record();
  }

  /** Ends the round at hand early, waits for it by `rounds`, and lets go of what is left. */
  async stop(rounds: () => Promise<void>): Promise<void> {
    this.#stopping.abort();
    await rounds();
    await this.#running?.return();
  }

  async #take(event: VerifyEvent): Promise<void> {
    if (event.kind === "progress" && event.phase === "accounts") this.#rows = event.done;
    if (event.kind === "finding") {
      this.#differences += 1;
      if (this.#differences <= LOGGED) this.#options.log(event.finding);
    }
    if (event.kind === "summary") await this.#verifications.finished("background", event.summary);
  }

  /** Tells what it has found already: the end of a large ledger may be hours away. */
  async #record(): Promise<void> {
    if (this.#differences === this.#recorded) return;
    await this.#verifications.found("background", this.#differences);
    this.#recorded = this.#differences;
  }

  async #drop(): Promise<void> {
    if (this.#running === undefined) return;
    await this.#running.return();
    this.#end();
  }

  #end(): void {
    this.#running = undefined;
    this.#rowsBefore += this.#rows;
    this.#rows = 0;
    this.#restUntil = performance.now() + this.#options.pauseMs;
    this.#differences = 0;
    this.#recorded = 0;
  }
}
