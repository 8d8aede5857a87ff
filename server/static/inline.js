// Markdown within a line: code, emphasis, links, line breaks. After CommonMark's algorithm, less its raw HTML.

import { element } from "./dom.js";

const PLAIN = /[^\\`*_~[!<\nhH]+/y;
const ESCAPE = /\\([!-/:-@[-`{-~])/y;
const LINK = /!?\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?([^\s<>()]*(?:\([^\s()]*\)[^\s<>()]*)*)>?(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/y;
const ANGLE_LINK = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const BARE_LINK = /https?:\/\/[^\s<>"'`*]+/iy;
const DELIMITERS = /\*+|_+|~~/y;
const SAFE_PROTOCOLS = new Set(["http:", "https:", "mailto:"]);
const DEPTH = 6; // of links within links' texts
const NESTED = 32; // runs that are open at a time; browsers do not survive elements nested without bound

/** Nodes for a text. */
export function inlineNodes(text, depth = 0) {
  const parts = []; // nodes, and delimiter runs that may become emphasis
  const unclosed = new Set(); // lengths of backtick runs that have no partner
  let at = 0;
  const match = (pattern) => {
    pattern.lastIndex = at;
    return pattern.exec(text);
  };
  while (at < text.length) {
    const start = at;
    let found;
    if ((found = match(PLAIN))) {
      parts.push(found[0]);
    } else if (text[at] === "\\" && (found = match(ESCAPE))) {
      parts.push(found[1]);
    } else if (text.startsWith("\\\n", at) || text[at] === "\n") {
      at += text[at] === "\n" ? 1 : 2;
      parts.push(element("br"));
      continue;
    } else if (text[at] === "`") {
      const span = codeSpan(text, at, unclosed);
      parts.push(span.node);
      at = span.end;
      continue;
    } else if (depth < DEPTH && (found = match(LINK))) {
      const inside = found[1] ? inlineNodes(found[1], depth + 1) : [found[2]];
      parts.push(link(unescaped(found[2]), inside, found[0]));
    } else if ((found = match(ANGLE_LINK))) {
      parts.push(link(found[1], [found[1].replace(/^mailto:/, "")], found[0]));
    } else if (!/\w/.test(text[at - 1] ?? " ") && (found = match(BARE_LINK))) {
      const url = withoutPunctuation(found[0]);
      parts.push(link(url, [url], url));
      at += url.length;
      continue;
    } else if ((found = match(DELIMITERS))) {
      parts.push(delimiterRun(text, at, found[0]));
    } else {
      parts.push(text[at]);
      at += 1;
    }
    if (found) at = start + found[0].length;
  }
  return withEmphasis(parts);
}

function codeSpan(text, start, unclosed) {
  const ticks = /`+/y;
  ticks.lastIndex = start;
  const run = ticks.exec(text)[0];
  const end = start + run.length;
  if (!unclosed.has(run.length)) {
    const runs = /`+/g;
    runs.lastIndex = end;
    for (let next; (next = runs.exec(text)); ) {
      if (next[0].length !== run.length) continue;
      const inside = text.slice(end, next.index).replaceAll("\n", " ");
      const code = /^ .*\S.* $/.test(inside) ? inside.slice(1, -1) : inside;
      return { node: element("code", {}, code), end: runs.lastIndex };
    }
    unclosed.add(run.length);
  }
  return { node: run, end };
}

/** A link that opens beside the page; the text as it was written where its address is not one to follow. */
function link(address, children, written) {
  let url;
  try {
    url = new URL(address); // relative ones fail: they would lead into this server
  } catch {
    return written;
  }
  if (!SAFE_PROTOCOLS.has(url.protocol)) return written;
  return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

function unescaped(text) {
  return text.replace(/\\([!-/:-@[-`{-~])/g, "$1");
}

/** A bare address without the punctuation of the sentence around it. */
function withoutPunctuation(url) {
  for (;;) {
    const last = url.at(-1);
    const isUnbalanced = last === ")" && url.split(")").length > url.split("(").length;
    if (!".,;:!?]}".includes(last) && !isUnbalanced) return url;
    url = url.slice(0, -1);
  }
}

function delimiterRun(text, at, run) {
  const before = text[at - 1] ?? " ";
  const after = text[at + run.length] ?? " ";
  const isPunctuation = (c) => /[\p{P}\p{S}]/u.test(c);
  const opens = !/\s/.test(after) && (!isPunctuation(after) || /\s/.test(before) || isPunctuation(before));
  const closes = !/\s/.test(before) && (!isPunctuation(before) || /\s/.test(after) || isPunctuation(after));
  const isWord = run[0] === "_"; // which never begins or ends emphasis within a word
  return {
    char: run[0],
    length: run.length,
    count: run.length, // that are not used yet
    canOpen: opens && (!isWord || !closes || isPunctuation(before)),
    canClose: closes && (!isWord || !opens || isPunctuation(after)),
  };
}

/** Whether these may be partners: so that in **a*b*c** a single star does not close a double one. */
function pairs(opener, closer) {
  if (opener.char !== closer.char) return false;
  const isEither = opener.canClose || closer.canOpen;
  return !isEither || (opener.length + closer.length) % 3 !== 0 || opener.length % 3 === 0;
}

/** Pairs delimiter runs, the innermost first, and wraps what is between them. Linear in the number of parts. */
function withEmphasis(parts) {
  const stack = []; // of { run, children }: the open runs, each with what follows it
  const output = [];
  const push = (...nodes) => (stack.at(-1)?.children ?? output).push(...nodes);
  const flatten = (from) => {
    for (const { run, children } of stack.splice(from)) {
      if (run.count) (stack.at(-1)?.children ?? output).push(run.char.repeat(run.count));
      for (const child of children) push(child);
    }
  };
  for (const part of parts) {
    if (part.char === undefined) {
      push(part);
      continue;
    }
    const run = { ...part };
    while (run.canClose && run.count) {
      const opener = stack.findLastIndex((entry) => pairs(entry.run, run));
      if (opener < 0) break;
      flatten(opener + 1);
      const entry = stack[opener];
      const used = Math.min(entry.run.count, run.count, 2);
      const tag = run.char === "~" ? "del" : used === 2 ? "strong" : "em";
      entry.children = [element(tag, {}, ...entry.children)];
      entry.run.count -= used;
      run.count -= used;
      if (!entry.run.count) flatten(opener);
    }
    if (run.count && run.canOpen && stack.length < NESTED) {
      stack.push({ run, children: [] });
    } else if (run.count) {
      push(run.char.repeat(run.count));
    }
  }
  flatten(0);
  return output;
}
