// Reads Cookie fields, a JSON string a line, and answers each with the names that every parser sees.
import { createInterface } from "node:readline";
import { parseCookie as next } from "@edge-runtime/cookies";
import { parse } from "cookie";
import { parse as express } from "cookie-of-express";
import { parse as hono } from "hono/utils/cookie";

const parsers = { cookie: parse, express, hono, next: (field) => Object.fromEntries(next(field)) };

for await (const line of createInterface({ input: process.stdin })) {
  const field = JSON.parse(line);
  const read = Object.entries(parsers).map(([name, parser]) => [name, Object.keys(parser(field))]);
  process.stdout.write(JSON.stringify(Object.fromEntries(read)) + "\n");
}
