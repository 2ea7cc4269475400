// Each check says what it is about once it holds; the first that does not ends the program.
import { isDeepStrictEqual } from "node:util";

export const port = Number(process.argv[2]);

export function ok(what, found, ...wanted) {
  const expected = wanted.length > 0 ? wanted[0] : true;
  if (!isDeepStrictEqual(found, expected)) {
    console.error(`FAILED ${what}:`, found, "instead of", expected);
    process.exit(1);
  }
  console.log(`ok ${what}`);
}
