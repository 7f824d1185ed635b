import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// `npm run dev` forwards to a running front door; name another one with KAIROS_FRONT_DOOR.
const frontDoor = process.env.KAIROS_FRONT_DOOR ?? "http://127.0.0.1:5000";
const forward = { target: frontDoor, ws: true };

export default defineConfig({
  plugins: [react()],
  resolve: { alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) } },
  build: {
    target: "es2022",
    sourcemap: false,
    manifest: true,
  },
  server: { proxy: { "/api": forward, "/v1": forward, "/ws": forward } },
  test: {
    environment: "jsdom",
    include: ["tests/unit/**/*.test.{ts,tsx}"],
    restoreMocks: true,
  },
});
