// The first page may load at most 200 KB of JavaScript (gzip): the entry, the overview, and all they import.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT = 200 * 1024;
const dist = new URL("../dist/", import.meta.url);
const manifest = JSON.parse(readFileSync(new URL(".vite/manifest.json", dist), "utf8"));
const entry = Object.keys(manifest).find((name) => manifest[name].isEntry);

const seen = new Set();
const visit = (name) => {
  if (seen.has(name)) return;
  seen.add(name);
  for (const imported of manifest[name].imports ?? []) visit(imported);
};
visit(entry);
visit("src/pages/overview.tsx");

const sizes = [...seen]
  .map((name) => manifest[name].file)
  .filter((file) => file.endsWith(".js"))
  .map((file) => ({ file, size: gzipSync(readFileSync(new URL(file, dist))).length }));
const total = sizes.reduce((sum, { size }) => sum + size, 0);
for (const { file, size } of sizes) console.log(`${(size / 1024).toFixed(1).padStart(7)} KB  ${file}`);
console.log(`${(total / 1024).toFixed(1).padStart(7)} KB  first JavaScript (gzip), limit ${LIMIT / 1024} KB`);
if (total > LIMIT) {
  console.error("The first page loads too much JavaScript: load a part of it lazily.");
  process.exit(1);
}
