// Which currencies the ledger knows, and how many fraction digits each has.

/** A code of three upper-case letters and its number of fraction digits. */
export interface Currency {
  readonly code: string;
  readonly digits: number;
}

/** The currencies of one ledger, by code. */
export type Currencies = ReadonlyMap<string, Currency>;

/**
 * ISO 4217 (list one as amended to 2025), by fraction digits; funds codes included, metals and test codes (no minor unit) left
 * out. Our own table rather than Intl's: that one follows CLDR, which differs from ISO (IQD 0 instead of 3) and changes with
 * Node, and the digits of a currency must not change under stored money.
 */
const iso4217: Readonly<Record<number, string>> = {
  0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
  2:
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW " +
    "CNY COP COU CRC CUC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR " +
    "ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR " +
    "MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN " +
    "SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG",
  3: "BHD IQD JOD KWD LYD OMR TND",
  4: "CLF UYW",
};

/** The most fraction digits a configured unit may have; 10^18 - 1 minor units are then still over a million. */
export const MAX_DIGITS = 12;

/** All currencies of ISO 4217 and the given extra units. Throws if a unit's code is taken by ISO with other digits. */
export function currenciesWith(units: readonly Currency[]): Currencies {
  const currencies = new Map<string, Currency>();
  for (const [digits, codes] of Object.entries(iso4217)) {
    for (const code of codes.split(" ")) currencies.set(code, { code, digits: Number(digits) });
  }
  for (const unit of units) {
    const known = currencies.get(unit.code);
    if (known !== undefined && known.digits !== unit.digits) {
      throw new Error(`${unit.code} has ${known.digits} fraction digits by ISO 4217, not ${unit.digits}`);
    }
    currencies.set(unit.code, unit);
  }
  return currencies;
}

/** The currency of a code that is known to be one: a row's, or that of a request which was validated. */
export function currencyOf(currencies: Currencies, code: string): Currency {
  const currency = currencies.get(code);
  if (currency === undefined) {
    throw new Error(`the ledger holds money in ${code}, a unit that this instance isn't configured for`);
  }
  return currency;
}
