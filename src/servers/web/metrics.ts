// The figures of /metrics, in Prometheus's text format. Three lines for each figure need no library.

import type { Verification } from "../../verification/sql/verifications.ts";

/** A figure. */
interface Metric {
  readonly name: string;
  readonly type: "gauge" | "counter";
  readonly help: string;
  readonly samples: readonly { readonly labels: string; readonly value: string }[];
}

/** The content type of the format. */
export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** What is told of the backups by a schedule. */
export interface BackupFigures {
  /** In milliseconds since 1970; 0: there is none. */
  readonly newest: number;
  readonly failures: number;
}

/**
 * What is told of verifications: the last ones of each kind, and how many rows this process went through in the background. And of backups, where there
 * is a schedule.
 */
export function metricsText(verifications: readonly Verification[], backgroundRows: number, backups: BackupFigures | undefined): string {
  const each = (value: (one: Verification) => string) => verifications.map((one) => ({ labels: `{kind="${one.kind}"}`, value: value(one) }));
  const metrics: readonly Metric[] = [
    { name: "ledgerd_verify_differences", type: "gauge", help: "Differences that the last verification found; anything but 0 needs an operator.", samples: each(({ differences }) => `${differences}`) },
    { name: "ledgerd_verify_last_completed_timestamp_seconds", type: "gauge", help: "When the last verification came to its end; 0: none has.", samples: each(({ finishedAt }) => `${Number(finishedAt ?? 0n) / 1e6}`) },
    { name: "ledgerd_verify_rows_total", type: "counter", help: "Transactions that this process verified in the background.", samples: [{ labels: "", value: `${backgroundRows}` }] },
  ];
  return [...metrics, ...(backups === undefined ? [] : metricsOfBackups(backups))].map(textOf).join("");
}

function metricsOfBackups({ newest, failures }: BackupFigures): readonly Metric[] {
  return [
    { name: "ledgerd_backup_last_completed_timestamp_seconds", type: "gauge", help: "When the newest archive in the folder was taken; 0: there is none.", samples: [{ labels: "", value: `${newest / 1000}` }] },
    { name: "ledgerd_backup_failures_total", type: "counter", help: "Backups by the schedule that failed in this process.", samples: [{ labels: "", value: `${failures}` }] },
  ];
}

function textOf({ name, type, help, samples }: Metric): string {
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${samples.map(({ labels, value }) => `${name}${labels} ${value}\n`).join("")}`;
}
