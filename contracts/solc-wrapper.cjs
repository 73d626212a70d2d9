#!/usr/bin/env node
// What py-solc-x expects of a native `solc`, over the npm package: `--version`, and
// `--standard-json [--base-path DIRECTORY]` from standard input to standard output.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const solc = require("solc");

const options = process.argv.slice(2);

if (options.includes("--version")) {
  // py-solc-x's pattern wants the platform that a native compiler names.
  const version = solc.version().replace(/\.Emscripten\.clang$/, ".Linux.g++");
  process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${version}\n`);
} else if (options.includes("--standard-json")) {
  const at = options.indexOf("--base-path");
  const base = path.resolve(at < 0 ? "." : options[at + 1]);
  const readSource = (name) => {
    const file = path.resolve(base, name);
    if (!file.startsWith(base + path.sep) || !fs.existsSync(file)) {
      return { error: `no such source below ${base}: ${name}` };
    }
    return { contents: fs.readFileSync(file, "utf8") };
  };
  process.stdout.write(solc.compile(fs.readFileSync(0, "utf8"), { import: readSource }));
} else {
  process.stderr.write("only --version and --standard-json are supported\n");
  process.exitCode = 1;
}
