// promptfoo, by its command line: chat, chat with a schema, completions.
import { spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const env = {
  ...process.env,
  PROMPTFOO_CONFIG_DIR: mkdtempSync(join(tmpdir(), "promptfoo-")),
  PROMPTFOO_DISABLE_TELEMETRY: "1",
  PROMPTFOO_DISABLE_UPDATE: "1",
};
const program = join(here, "node_modules/promptfoo/dist/src/entrypoint.js");
const options = ["eval", "--config", join(here, "promptfooconfig.yaml"), "--no-cache", "--no-table"];
const done = spawnSync(process.execPath, [program, ...options], { env, stdio: "inherit" });
process.exitCode = done.status ?? 1;
