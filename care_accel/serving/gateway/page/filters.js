// A choice for each text field with few values, and what is chosen as an SQL expression.

const chosen = new Map(); // name of a field to its value

// Names hold neither dots nor quotes; in a text, a quote is doubled.
export function expression() {
  const parts = [...chosen].map(([name, value]) => `\`${name}\` = '${value.replaceAll("'", "''")}'`);
  return parts.length ? parts.join(" AND ") : null;
}

// Fill an element with choices; `changed` is called after each.
export function offer(element, fields, words, changed) {
  const some = fields.filter((field) => field.values?.some(({ value }) => value));
  for (const [name, value] of chosen) {
    const field = some.find((one) => one.name === name);
    if (!field?.values.some((one) => one.value === value)) chosen.delete(name);
  }
  element.hidden = !some.length;
  element.replaceChildren(...some.map((field) => choice(field, words, changed)));
}

function choice({ name, values }, words, changed) {
  const select = document.createElement("select");
  select.dataset.field = name;
  select.append(new Option(words.all, ""));
  for (const { value, documents } of values) {
    if (value) select.append(new Option(words.choice(value, documents), value));
  }
  select.value = chosen.get(name) ?? "";
  select.addEventListener("change", () => {
    if (select.value) chosen.set(name, select.value);
    else chosen.delete(name);
    changed();
  });
  const label = document.createElement("label");
  const caption = document.createElement("span");
  caption.textContent = name;
  label.append(caption, select);
  return label;
}

// The fields of a document that has any, for showing: names that begin with an underscore are no fields.
export function fieldsOf(document) {
  if (typeof document !== "object" || document === null || typeof document.text !== "string") return [];
  return Object.entries(document)
    .filter(([name, value]) => !/^(id|title|text|_.*)$/s.test(name) && value !== null && value !== "")
    .map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : plain(value)]);
}

function plain(value) {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
