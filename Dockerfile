# ledgerd without a database: give it one with DATABASE_URL.
#   docker build -t ledgerd .
#   docker run -e DATABASE_URL=postgres://… -p 50051:50051 -p 8080:8080 ledgerd
FROM node:24-bookworm-slim

WORKDIR /ledgerd
COPY package.json package-lock.json ./
# Without the development tools, and without the embedded PostgreSQL, which a container doesn't need.
RUN npm ci --omit=dev --omit=optional && npm cache clean --force
COPY migrations migrations
COPY src src
# Where the service keeps what it has compiled: see src/main.ts.
RUN install -d -o node node_modules/.cache

ENV NODE_ENV=production LEDGERD_GRPC_ADDR=0.0.0.0:50051 LEDGERD_HTTP_ADDR=0.0.0.0:8080
EXPOSE 50051 8080
USER node
RUN node src/main.ts version
USER root
# It holds code: nobody who serves may write it.
RUN chown -R root node_modules/.cache
USER node
# By readiness, which `depends_on: service_healthy` waits for. What restarts containers should ask /livez instead.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:8080/readyz').then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]

# Not npm: the signals must reach ledgerd itself.
CMD ["node", "src/main.ts"]
