// Whether this instance can take calls, as grpc.health.v1 and /healthz tell it.

import { HealthImplementation } from "grpc-health-check";

/** What is known of an instance's readiness. */
export interface Readiness {
  readonly health: HealthImplementation;
  /** Why it isn't ready; undefined if it is. */
  readonly problem: () => string | undefined;
  /** Takes in what a look at the database found. */
  readonly report: (problem: string | undefined) => void;
  /** From now on it isn't ready, whatever is reported. */
  readonly drain: () => void;
}

/** Starts out as not ready. The empty name stands for the instance as a whole. */
export function createReadiness(services: readonly string[], onChange: (problem: string | undefined) => void): Readiness {
  const names = ["", ...services];
  const health = new HealthImplementation(Object.fromEntries(names.map((name) => [name, "NOT_SERVING" as const])));
  let current: string | undefined = "starting";
  let draining = false;

  function change(problem: string | undefined): void {
    if (problem === current) return;
    // Watchers are told when it becomes ready and when it ceases to be, not of each reason.
    const turned = (problem === undefined) !== (current === undefined);
    current = problem;
    for (const name of turned ? names : []) health.setStatus(name, problem === undefined ? "SERVING" : "NOT_SERVING");
    onChange(problem);
  }

  return {
    health,
    problem: () => current,
    report: (problem) => {
      if (!draining) change(problem);
    },
    drain: () => {
      draining = true;
      change("shutting down");
    },
  };
}
