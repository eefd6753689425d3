import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  server: {
    // Vite refuses requests for a host that it was not told of; this is the one that the machine sees.
    allowedHosts: [".machines.example"],
  },
});
