'use strict';
(() => {
  const byId = id => document.getElementById(id);
  const make = (name, text) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const SHOWN = 60;
  let data = null;
  const load = () => (data ??= JSON.parse(byId('node-data').textContent));

  const button = (number, pick) => {
    const choose = make('button', load().nodes[number][1]);
    choose.type = 'button';
    choose.dataset.node = number;
    choose.addEventListener('click', () => pick(number));
    return choose;
  };

  const detail = number => {
    const [, name, status, key, file, outputs, inputs, metrics, seconds, profile, why] = load().nodes[number];
    const list = make('dl');
    const entry = (term, ...content) => {
      const cell = make('dd');
      for (const part of content) cell.append(part);
      list.append(make('dt', term), cell);
    };
    const code = text => make('code', text);
    const [, kind] = load().stages[load().nodes[number][0]];
    entry('kind', kind);
    entry('state', status);
    if (key) entry('key', code(key));
    if (file) entry('file', code(file));
    for (const [path, from, output] of inputs) {
      entry(path, button(from, show), output === 'main' ? '' : ` .${output}`);
    }
    for (const [output, type, digest, size, rows] of outputs) {
      const count = rows === null ? '' : `, ${rows} rows`;
      entry(output === 'main' ? 'output' : `.${output}`, `${type}, ${size}${count}: `, code(digest));
    }
    for (const [metric, value, n, interval] of metrics) {
      entry(metric, `${value} (n ${n}${interval ? `, ${interval}` : ''})`);
    }
    if (seconds !== null) entry('time', `${seconds.toFixed(2)} s`);
    if (profile) entry('on', profile);
    if (why) entry('why', why);
    byId('detail').replaceChildren(make('h4', name), list);
  };

  const show = number => {
    detail(number);
    for (const choose of byId('found').querySelectorAll('button')) {
      choose.setAttribute('aria-current', String(Number(choose.dataset.node) === number));
    }
  };

  const find = text => {
    const words = text.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const { nodes } = load();
    const found = [];
    let count = 0;
    nodes.forEach((node, number) => {
      const [, name, , key, file, outputs] = node;
      const has = word => name.toLowerCase().includes(word) || key?.startsWith(word) || file?.startsWith(word)
        || outputs.some(output => output[2].startsWith(word));
      if (words.every(has) && ++count <= SHOWN) found.push(number);
    });
    const items = found.map(number => {
      const item = make('li');
      item.append(button(number, show));
      return item;
    });
    byId('found').replaceChildren(...items);
    byId('found-count').textContent = count > SHOWN ? `${SHOWN} of ${count} nodes` : `${count} nodes`;
  };

  const explore = () => {
    const box = byId('explorer');
    if (!box) return;
    box.hidden = false;
    byId('find').addEventListener('input', event => find(event.target.value));
    // The data of many nodes are read only when somebody comes to them.
    new IntersectionObserver((entries, observer) => {
      if (entries.some(entry => entry.isIntersecting)) {
        observer.disconnect();
        find(byId('find').value);
      }
    }, { rootMargin: '400px' }).observe(box);
  };

  // A page that is printed shows its samples.
  addEventListener('beforeprint', () => {
    for (const part of document.querySelectorAll('details.stage')) part.open = true;
  });

  // Live: sections that changed are replaced; what was opened stays open.
  const replace = text => {
    const next = new DOMParser().parseFromString(text, 'text/html');
    const parts = root => new Map([...root.querySelectorAll('main > *')].map(part => [part.id, part]));
    const [old, fresh] = [parts(document), parts(next)];
    const nodes = next.getElementById('node-data');
    let last = null;
    for (const [id, part] of fresh) {
      const before = old.get(id);
      const opened = new Set([...(before?.querySelectorAll('details[open] > summary') ?? [])].map(s => s.textContent));
      const adopted = document.adoptNode(part);
      for (const summary of adopted.querySelectorAll('details > summary')) {
        summary.parentElement.open = opened.has(summary.textContent);
      }
      if (id === 'provenance' && before) {
        byId('node-data').textContent = nodes.textContent;
        const known = data !== null;
        data = null;
        if (known) find(byId('find').value);
      } else if (!before) {
        last ? last.after(adopted) : byId('main').prepend(adopted);
      } else if (!before.isEqualNode(adopted)) {
        before.replaceWith(adopted);
      }
      last = byId(id);
    }
    const links = next.querySelector('nav ul');
    document.querySelector('nav ul').replaceWith(document.adoptNode(links));
  };

  const follow = async () => {
    const live = byId('live');
    let version = '';
    for (;;) {
      try {
        const response = await fetch(`changes?after=${version}`, { cache: 'no-store' });
        if (!response.ok) throw new Error(response.statusText);
        const state = await response.json();
        if (version && state.version !== version) replace(await (await fetch('page', { cache: 'no-store' })).text());
        version = state.version;
        live.textContent = state.running ? 'live: a run is under way' : 'live: no run is under way';
      } catch {
        live.textContent = 'the connection is lost';
        await new Promise(done => setTimeout(done, 1000));
      }
    }
  };

  explore();
  if ('live' in document.documentElement.dataset) follow();
})();
