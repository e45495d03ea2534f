// Ask a running gateway from JavaScript, in Node 18 or newer or in a browser; no package is needed.
//
//   node examples/query.mjs 血压高怎么办 http://127.0.0.1:8080
//
// A page of another origin cannot call the gateway: put both behind one proxy.

export async function search(gateway, query, { k = 3, filter, token } = {}) {
  const response = await fetch(`${gateway}/v1/search`, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) },
    body: JSON.stringify({ query, k, ...(filter && { filter }) }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${response.status}: ${answer.error.message}`);
  return answer.data[0].hits;
}

if (globalThis.process?.argv[2]) {
  const [, , query, gateway = "http://127.0.0.1:8080"] = process.argv;
  for (const hit of await search(gateway, query)) {
    console.log(hit.score.toFixed(3), hit.id, JSON.stringify(hit.document));
  }
}
