// Markdown to DOM nodes, without ever parsing HTML: blocks here, what is within a line in inline.js.

import { copyButton, element } from "./dom.js";
import { inlineNodes } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})\s*(\S*)/;
const HEADING = /^ {0,3}(#{1,6})(?: (.*))?$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}(?=\S)| *$| (?= {4}))/;
const INDENTED = /^ {4}/;
const TABLE_RULE = /^ {0,3}\|?(?:\s*:?-+:?\s*\|)+(?:\s*:?-+:?\s*)?$/;
const TASK = /^\[([ xX])\]\s+/;
const DEPTH = 12; // of quotes and lists within each other; deeper ones are text
const TAB = "    ";

/** Shows a growing Markdown text in a container. Blocks that have not changed keep their nodes. */
export class MarkdownView {
  #container;
  #sources = [];

  constructor(container) {
    this.#container = container;
  }

  update(text) {
    const blocks = splitBlocks(text.replace(/\r\n?/g, "\n").replaceAll("\t", TAB).split("\n"), 0);
    const sources = blocks.map(({ lines }) => lines.join("\n"));
    let same = 0;
    while (same < sources.length && sources[same] === this.#sources[same]) same++;
    while (this.#container.childNodes.length > same) this.#container.lastChild.remove();
    this.#container.append(...blocks.slice(same).map((block) => block.render(block.lines, 0)));
    this.#sources = sources;
  }
}

/** The blocks of these lines: which lines each one has, and what renders it. */
function splitBlocks(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const [end, render] = blockAt(lines, at, depth);
    blocks.push({ lines: lines.slice(at, end), render });
    at = end;
  }
  return blocks;
}

/** Behind which line the block that begins at this one ends, and what renders it. */
function blockAt(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return [fenceEnd(lines, at), renderFence];
  if (HEADING.test(line)) return [at + 1, renderHeading];
  if (RULE.test(line)) return [at + 1, () => element("hr")];
  if (QUOTE.test(line) && depth < DEPTH) return [quoteEnd(lines, at), renderQuote];
  if (ITEM.test(line) && depth < DEPTH) return [listEnd(lines, at), renderList];
  if (INDENTED.test(line)) return [indentedEnd(lines, at), renderIndented];
  if (isTable(lines, at)) return [paragraphEnd(lines, at + 2), renderTable];
  return [paragraphEnd(lines, at + 1), renderParagraph];
}

function renderBlocks(lines, depth) {
  return splitBlocks(lines, depth).map((block) => block.render(block.lines, depth));
}

/** Whether a line ends the paragraph above it. */
function interrupts(line) {
  const item = ITEM.exec(line);
  const isItem = item && line.length > item[0].length && !/\d/.test(item[2].replace(/^1\D/, ""));
  return !line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || isItem;
}

function paragraphEnd(lines, at) {
  while (at < lines.length && !interrupts(lines[at])) at++;
  return at;
}

function renderParagraph(lines) {
  return element("p", {}, ...inlineNodes(lines.map((line) => line.trim()).join("\n")));
}

function renderHeading([line]) {
  const [, marks, written = ""] = HEADING.exec(line);
  const text = withoutClosingMarks(written.trim());
  const level = Math.min(6, marks.length + 2); // below the page's own headings
  return element(`h${level}`, { class: `heading-${marks.length}` }, ...inlineNodes(text));
}

function withoutClosingMarks(text) {
  let end = text.length;
  while (text[end - 1] === "#") end--;
  return end === 0 || text[end - 1] === " " ? text.slice(0, end).trimEnd() : text;
}

function fenceEnd(lines, at) {
  const fence = FENCE.exec(lines[at])[1];
  for (let end = at + 1; end < lines.length; end++) {
    const closing = lines[end].trim();
    if (closing.startsWith(fence) && closing === fence[0].repeat(closing.length)) return end + 1;
  }
  return lines.length;
}

function renderFence(lines) {
  const [, fence, language] = FENCE.exec(lines[0]);
  const indent = /^ */.exec(lines[0])[0].length;
  const isClosed = lines.length > 1 && fenceEnd([lines[0], lines.at(-1), ""], 0) === 2;
  const body = lines.slice(1, isClosed ? -1 : undefined).map((line) => line.replace(new RegExp(`^ {0,${indent}}`), ""));
  return codeBlock(body.join("\n"), language);
}

function indentedEnd(lines, at) {
  let end = at;
  for (let i = at; i < lines.length && (INDENTED.test(lines[i]) || !lines[i].trim()); i++) {
    if (lines[i].trim()) end = i + 1;
  }
  return end;
}

function renderIndented(lines) {
  return codeBlock(lines.map((line) => line.slice(4)).join("\n"), "");
}

function codeBlock(text, language) {
  const head = element("div", { class: "code-head" }, element("span", {}, language || "text"), copyButton(() => text));
  const label = language ? `Code, ${language}` : "Code";
  const pre = element("pre", { tabindex: "0", role: "region", "aria-label": label }, element("code", {}, text));
  return element("div", { class: "code-block" }, head, pre);
}

function quoteEnd(lines, at) {
  while (at < lines.length && (QUOTE.test(lines[at]) || !interrupts(lines[at]))) at++;
  return at;
}

function renderQuote(lines, depth) {
  return element("blockquote", {}, ...renderBlocks(lines.map((line) => line.replace(QUOTE, "")), depth + 1));
}

/** The list item that begins on a line: a list of one kind ends where another begins. */
function itemOf(line) {
  const found = RULE.test(line) ? null : ITEM.exec(line);
  return found && { marker: found[2], kind: found[2].at(-1), indent: found[1].length, offset: found[0].length };
}

function indentOf(line) {
  return /^ */.exec(line)[0].length;
}

function listEnd(lines, at) {
  const first = itemOf(lines[at]);
  let { indent } = first;
  let end = at + 1;
  for (let i = at + 1; i < lines.length; i++) {
    const line = lines[i];
    if (!line.trim()) continue;
    const item = itemOf(line);
    const isWithin = indentOf(line) >= indent + 2;
    const isNext = item?.kind === first.kind;
    const goesOn = end === i && !interrupts(line); // a paragraph of the item, without its indent
    if (!isWithin && !isNext && !goesOn) break;
    if (!isWithin && isNext) indent = item.indent;
    end = i + 1;
  }
  return end;
}

function renderList(lines, depth) {
  const first = itemOf(lines[0]);
  const items = []; // the lines of each, without their indent
  let current = first;
  let isLoose = false;
  lines.forEach((line, i) => {
    const item = itemOf(line);
    const isNext = i === 0 || (item?.kind === first.kind && item.indent < current.indent + 2);
    if (isNext) current = item;
    isLoose ||= i > 0 && !lines[i - 1].trim() && line.trim() !== "" && (isNext || indentOf(line) === current.offset);
    if (isNext) items.push([line.slice(item.offset)]);
    else items.at(-1).push(line.slice(Math.min(current.offset, indentOf(line))));
  });
  const isOrdered = /\d/.test(first.marker);
  const start = isOrdered && parseInt(first.marker, 10) !== 1 ? parseInt(first.marker, 10) : null;
  return element(isOrdered ? "ol" : "ul", { start }, ...items.map((item) => renderItem(item, isLoose, depth)));
}

function renderItem(lines, isLoose, depth) {
  const task = TASK.exec(lines[0]);
  if (task) lines = [lines[0].slice(task[0].length), ...lines.slice(1)];
  const blocks = renderBlocks(lines, depth + 1);
  const children = isLoose ? blocks : blocks.flatMap((block) => (block.tagName === "P" ? [...block.childNodes] : [block]));
  if (!task) return element("li", {}, ...children);
  const box = element("input", { type: "checkbox", disabled: true, checked: task[1] !== " ", "aria-label": "Task" });
  return element("li", { class: "task" }, box, ...children);
}

function isTable(lines, at) {
  const rule = lines[at + 1];
  return Boolean(rule) && lines[at].includes("|") && TABLE_RULE.test(rule) && cells(lines[at]).length === cells(rule).length;
}

function cells(line) {
  const inside = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function renderTable(lines) {
  const head = cells(lines[0]);
  const align = cells(lines[1]).map((rule) => (rule.endsWith(":") ? (rule.startsWith(":") ? "center" : "end") : "start"));
  const row = (tag, texts) =>
    element("tr", {}, ...head.map((_, i) => element(tag, { class: `align-${align[i]}` }, ...inlineNodes(texts[i] ?? ""))));
  const body = lines.slice(2).map((line) => row("td", cells(line)));
  const table = element("table", {}, element("thead", {}, row("th", head)), element("tbody", {}, ...body));
  return element("div", { class: "table-frame", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}
