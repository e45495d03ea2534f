// Cuts what is searched for on the site. Chinese has no spaces: a run of it is cut into the longest words of the index, from the
// left, as jieba has cut the pages; characters of no word are left out.
var splitQuery = (query) => {
  const known = (word) => Object.hasOwn(Search._index.terms, word) || Object.hasOwn(Search._index.titleterms, word);
  const words = [];
  for (const [run] of query.matchAll(/\p{Script=Han}+|(?:(?!\p{Script=Han})[\p{Letter}\p{Number}_])+/gu)) {
    if (!/\p{Script=Han}/u.test(run)) {
      words.push(run);
      continue;
    }
    const found = [];
    for (let start = 0; start < run.length; ) {
      let end = run.length;
      while (end > start + 1 && !known(run.slice(start, end))) end -= 1;
      if (known(run.slice(start, end))) found.push(run.slice(start, end));
      start = end;
    }
    words.push(...(found.length ? found : [run]));
  }
  return words;
};
