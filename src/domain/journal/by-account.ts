// Values by account. Maps within maps, rather than one by a text made of both parts of the name: such a text was made and hashed ten times for each write.

/** What is known of accounts. */
export interface ReadonlyByAccount<V> {
  get(userId: bigint, currency: string): V | undefined;
}

/** What is known of accounts, as it becomes known. */
export class ByAccount<V> implements ReadonlyByAccount<V> {
  readonly #currencies = new Map<string, Map<bigint, V>>();

  get(userId: bigint, currency: string): V | undefined {
    return this.#currencies.get(currency)?.get(userId);
  }

  set(userId: bigint, currency: string, value: V): void {
    const users = this.#currencies.get(currency);
    if (users === undefined) this.#currencies.set(currency, new Map([[userId, value]]));
    else users.set(userId, value);
  }

  delete(userId: bigint, currency: string): void {
    this.#currencies.get(currency)?.delete(userId);
  }

  /** All values: by currency, each one's in the order in which they came. */
  values(): readonly V[] {
    return [...this.#currencies.values()].flatMap((users) => [...users.values()]);
  }
}
