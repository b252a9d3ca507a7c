// Draws openapi.json. A piece of the page is [tag, attributes, ...children]; texts stay texts, so
// that nothing which stands in the description can become markup.

const METHODS = ["get", "post", "put", "delete", "patch"];
const DEPTH = 6;

export function page(api) {
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, ...item[method] })));
  const groups = api.tags.map(({ name }) => ({
    name,
    operations: operations.filter((operation) => operation.tags[0] === name),
  }));
  return ["div", { class: "layout" },
    ["nav", {}, ["a", { href: "openapi.json" }, "openapi.json"], ...groups.flatMap(contents)],
    ["main", {},
      ["h1", {}, api.info.title], ["p", {}, api.info.summary],
      ["p", { class: "quiet" }, `Version ${api.info.version}, at ${api.servers[0].url}`],
      ...groups.flatMap((group) => [
        ["h2", {}, group.name], ...group.operations.map((one) => operation(api, one))])]];
}

function contents(group) {
  return [["h2", {}, group.name], ...group.operations.map((one) =>
    ["a", { href: `#${one.operationId}` },
      ["span", { class: "method" }, one.method.toUpperCase()], ` ${one.path}`])];
}

function operation(api, one) {
  const answers = Object.entries(one.responses);
  return ["section", { id: one.operationId },
    ["h3", {}, ["span", { class: "method" }, one.method.toUpperCase()], ` ${one.path}`],
    ["p", {}, one.summary, ["span", { class: "quiet" }, key(api, one)]],
    ...titled("Parameters", (one.parameters || []).map((parameter) => row(
      parameter.name, `${parameter.in}, ${kind(api, parameter.schema)}`,
      parameter.description || parameter.schema.description || ""))),
    ...Object.entries(one.requestBody?.content || {}).flatMap(([type, { schema }]) =>
      titled(`Body, ${type}`, [["tr", {}, ["td", {}, ...shape(api, schema)]]])),
    ...titled("Answers", answers.map(([status, answer]) => ["tr", {},
      ["td", {}, ["code", {}, status]],
      ["td", {}, answer.description, ...bodies(api, answer)]]))];
}

function key(api, one) {
  if (!one.security.length) return " Needs no key.";
  const scheme = api.components.securitySchemes[Object.keys(one.security[0])[0]];
  const where = scheme.type === "http" ? `Authorization: ${scheme.scheme}` : scheme.name;
  return ` Key in ${where}.`;
}

function bodies(api, answer) {
  return Object.entries(answer.content || {}).map(([type, media]) =>
    ["details", {}, ["summary", { class: "quiet" }, type],
      ...(media["x-events"]
        ? Object.entries(media["x-events"]).flatMap(([name, schema]) =>
          [["h4", {}, `event: ${name}`], ...shape(api, schema)])
        : shape(api, media.schema))]);
}

function titled(title, rows) {
  return rows.length ? [["h4", {}, title], ["table", {}, ...rows]] : [];
}

function row(name, type, about) {
  return ["tr", {}, ["td", {}, ["code", {}, name]],
    ["td", {}, ["span", { class: "quiet" }, type], ` ${about}`]];
}

function resolved(api, schema) {
  if (!schema?.$ref) return schema;
  return schema.$ref.slice(2).split("/").reduce((node, step) => node[step], api);
}

function kind(api, given) {
  const schema = resolved(api, given) || {};
  if (schema.not) return "refused";
  if (schema.anyOf) return schema.anyOf.map((one) => kind(api, one)).join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.type === "array") return `list of ${kind(api, schema.items)}`;
  const name = schema.contentEncoding || schema.format || schema.title || schema.type;
  const bounds = [schema.minimum, schema.maximum].map((bound) => bound ?? "");
  const range = bounds.join("") === "" ? "" : ` ${bounds.join(" to ")}`;
  return `${name || "anything"}${range}`;
}

function shape(api, given, depth = 0) {
  const schema = resolved(api, given) || {};
  if (depth > DEPTH) return ["…"];
  if (schema.anyOf) return schema.anyOf.flatMap((one) => shape(api, one, depth));
  if (schema.type === "array") return [["div", {}, "A list of"], ...shape(api, schema.items, depth)];
  if (!schema.properties) return [["code", {}, kind(api, schema)]];
  const required = new Set(schema.required || []);
  return [["table", {}, ...Object.entries(schema.properties).map(([name, property]) => {
    const whole = resolved(api, property) || {};
    const nested = inner(api, property);
    const needed = required.has(name) && !schema.readOnly ? ", required" : "";
    const about = row(name, `${kind(api, property)}${needed}`, whole.description || "");
    if (nested) about[3].push(["details", {}, ["summary", { class: "quiet" }, "fields"],
      ...shape(api, nested, depth + 1)]);
    return about;
  })]];
}

function inner(api, given) {
  const schema = resolved(api, given) || {};
  if (schema.properties) return schema;
  if (schema.type === "array") return inner(api, schema.items);
  return (schema.anyOf || []).map((one) => inner(api, one)).find(Boolean);
}

export function element(piece) {
  if (!Array.isArray(piece)) return document.createTextNode(piece);
  const [tag, attributes, ...children] = piece;
  const node = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  node.append(...children.map(element));
  return node;
}

if (globalThis.document) {
  const answer = await fetch("openapi.json");
  document.body.replaceChildren(element(page(await answer.json())));
}
