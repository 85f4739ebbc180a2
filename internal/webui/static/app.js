// What the pages do beyond links and forms. Everything works without it, only
// not by itself. See doc.go for how a page is kept up to date.
'use strict';
(() => {
  const soonest = 300; // ms between two renewals
  const $ = (id) => document.getElementById(id);

  // Morph makes one tree like another, and leaves alone what the person at the
  // page did: focus, typed text, opened details.
  const keeps = (n) => n.nodeType === 1 && n.hasAttribute('data-keep');
  const mine = (el, name) =>
    (name === 'open' && el.localName === 'details') ||
    (name === 'value' && el.localName === 'input' && el.type !== 'hidden') ||
    (name === 'class' && el.hasAttribute('data-keep'));

  function attributes(from, to) {
    for (const a of [...from.attributes]) {
      if (!to.hasAttribute(a.name) && !mine(from, a.name)) from.removeAttribute(a.name);
    }
    // A part that opens or closes with the state follows it when that changes.
    if (from.dataset.open !== to.dataset.open) from.open = to.dataset.open === 'true';
    for (const a of to.attributes) {
      if (from.getAttribute(a.name) !== a.value && !mine(from, a.name)) from.setAttribute(a.name, a.value);
    }
  }

  const same = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || '') === (b.id || '');

  function children(from, to) {
    let at = from.firstChild;
    for (const want of [...to.childNodes]) {
      let found = null;
      if (want.id) {
        for (let n = at; n; n = n.nextSibling) if (n.id === want.id) { found = n; break; }
      } else if (at && same(at, want)) {
        found = at;
      }
      if (!found) {
        from.insertBefore(document.importNode(want, true), at);
        continue;
      }
      if (found !== at) from.insertBefore(found, at);
      else at = at.nextSibling;
      morph(found, want);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function morph(from, to) {
    if (from.nodeType !== 1) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (from.nodeName !== to.nodeName) {
      from.replaceWith(document.importNode(to, true));
      return;
    }
    attributes(from, to);
    if (!keeps(from)) children(from, to);
  }

  // Times are written in the reader's zone, and grow older by themselves.
  function ago(s) {
    if (s < 5) return 'just now';
    if (s < 60) return Math.floor(s) + ' s ago';
    if (s < 3600) return Math.floor(s / 60) + ' min ago';
    if (s < 172800) return Math.floor(s / 3600) + ' h ago';
    return Math.floor(s / 86400) + ' d ago';
  }
  function times() {
    for (const t of document.querySelectorAll('time[datetime]')) {
      const at = new Date(t.dateTime);
      if (isNaN(at)) continue;
      t.title = at.toLocaleString() + ' · ' + at.toISOString().slice(0, 19).replace('T', ' ') + ' UTC';
      if (t.hasAttribute('data-absolute')) t.textContent = at.toLocaleString();
      else t.textContent = ago(Math.max(0, (Date.now() - at) / 1000));
    }
  }

  // Charts.
  const charts = new WeakMap();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const clock = (t) => ({ hour: '2-digit', minute: '2-digit', hourCycle: 'h23', ...(t.at(-1) - t[0] < 300 ? { second: '2-digit' } : {}) });

  // A bin with gaps on both sides has no line to be seen by: it is a point.
  function lone(u, i) {
    const v = u.data[i];
    return [...v.keys()].filter((k) => v[k] != null && v[k - 1] == null && v[k + 1] == null);
  }

  function options(kind, width) {
    const grid = { stroke: css('--grid'), width: 1 }, ink = css('--dim');
    const unit = kind === 'rate' ? ' %' : ' ms';
    const axis = { stroke: ink, grid, ticks: grid, font: '12px system-ui, sans-serif' };
    const value = (u, v) => v == null ? '–' : +v.toPrecision(3) + unit;
    const points = { show: false, filter: lone, size: 7 };
    return {
      width, height: 190, legend: { live: true, markers: { show: false } },
      cursor: { y: false, points: { size: 7 } },
      scales: {
        x: { time: true },
        y: { range: (u, lo, hi) => [0, hi > 0 ? hi * 1.15 : 1] },
        w: { range: [0, 100] },
      },
      axes: [
        { ...axis, space: 70, values: (u, at) => at.map((s) => new Date(s * 1000).toLocaleTimeString([], clock(u.data[0]))) },
        { ...axis, size: 66, values: (u, vs) => vs.map((v) => +v.toPrecision(3) + unit) },
      ],
      series: [
        { label: 'time', value: (u, v) => v == null ? '–' : new Date(v * 1000).toLocaleTimeString([], { hourCycle: 'h23' }) },
        { label: 'weight', scale: 'w', stroke: css('--weight-line'), fill: css('--weight-fill'), width: 1, points: { show: false }, paths: uPlot.paths.stepped({ align: -1 }), value: (u, v) => v == null ? '–' : v + ' %' },
        { label: 'stable', stroke: css('--stable'), width: 2, dash: [6, 4], points, spanGaps: false, value },
        { label: 'candidate', stroke: css('--candidate'), width: 2.5, points, spanGaps: false, value },
      ],
    };
  }

  function draw(host, anew) {
    let d;
    try { d = JSON.parse(host.dataset.chart); } catch { return; }
    const t = d.t.map((ms) => ms / 1000);
    for (const el of host.querySelectorAll('[data-plot]')) {
      const kind = el.dataset.plot;
      const data = kind === 'rate' ? [t, d.w, d.b, d.c] : [t, d.w, d.b99, d.c99];
      let c = charts.get(el);
      if (c && anew) { c.plot.destroy(); c = null; }
      if (!c) {
        el.replaceChildren();
        c = { plot: new uPlot(options(kind, Math.max(200, el.clientWidth)), data, el), raw: '' };
        charts.set(el, c);
        watchSize.observe(el);
      }
      if (c.raw !== host.dataset.chart) { c.plot.setData(data); c.raw = host.dataset.chart; }
    }
  }
  const watchSize = new ResizeObserver((entries) => {
    for (const e of entries) {
      const c = charts.get(e.target), width = Math.max(200, Math.floor(e.contentRect.width));
      if (c && c.plot.width !== width) c.plot.setSize({ width, height: 190 });
    }
  });
  function drawAll(anew) {
    if (!window.uPlot) return;
    for (const host of document.querySelectorAll('[data-chart]')) draw(host, anew);
  }
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => drawAll(true));

  // A log follows its end while the reader looks at the end.
  function follow() {
    const log = $('log');
    if (!log || !log.hasAttribute('data-follow')) return;
    const left = log.scrollHeight - log.scrollTop - log.clientHeight;
    log.dataset.end = left < 40 ? 'yes' : 'no';
  }
  function toEnd() {
    const log = $('log');
    if (log && log.hasAttribute('data-follow') && log.dataset.end !== 'no') log.scrollTop = log.scrollHeight;
  }

  // The connection, as a word that is always there when it is needed.
  let open = false, trouble = false;
  function connection() {
    const el = $('connection');
    if (!el) return;
    const bad = trouble || !open;
    const text = bad ? 'Connection lost, trying again' : 'Live';
    el.hidden = false;
    el.classList.toggle('lost', bad);
    if (el.textContent !== text) el.textContent = text;
  }

  // Renewal: at most one request at a time, at most one every 300 ms, and one
  // more if something happened meanwhile.
  let wanted = false, busy = false, timer = 0, last = 0;
  function renew() {
    wanted = true;
    if (busy || timer || document.hidden) return;
    timer = setTimeout(() => {
      timer = 0;
      const el = $('live');
      if (!el || !wanted || busy) return;
      wanted = false;
      busy = true;
      last = Date.now();
      htmx.trigger(el, 'renew');
    }, Math.max(0, last + soonest - Date.now()));
  }
  function renewed() {
    busy = false;
    if (wanted) renew();
  }
  function tick() {
    const el = $('live');
    if (el && !busy && !document.hidden && Date.now() - last >= Number(el.dataset.poll || 30000)) renew();
  }

  function disconnect() {
    const f = $('feed'), data = f && f['htmx-internal-data'];
    if (data && data.sseEventSource) data.sseEventSource.close();
    open = false;
  }

  function reconnect() {
    const old = $('feed');
    if (!old) return;
    const fresh = old.cloneNode(true);
    htmx.remove(old);
    document.body.append(fresh);
    htmx.process(fresh);
  }

  function start() {
    times();
    setInterval(times, 5000);
    toEnd();
    const log = $('log');
    if (log) log.addEventListener('scroll', follow, { passive: true });
    // A second click on a button that was pressed sends nothing.
    document.addEventListener('submit', (e) => {
      if (e.target.dataset.sent) { e.preventDefault(); return; }
      e.target.dataset.sent = 'yes';
    });
    addEventListener('pageshow', () => {
      for (const f of document.querySelectorAll('form[data-sent]')) delete f.dataset.sent;
    });
    // A link to a part that is closed opens it.
    const unfold = () => {
      const to = location.hash && $(decodeURIComponent(location.hash.slice(1)));
      for (let d = to && to.closest('details'); d; d = d.parentElement.closest('details')) d.open = true;
      if (to) to.scrollIntoView();
    };
    addEventListener('hashchange', unfold);
    unfold();
    document.addEventListener('keydown', (e) => {
      if (e.key !== 'Escape') return;
      const d = document.activeElement && document.activeElement.closest('details.act[open]');
      if (d) { d.open = false; d.querySelector('summary').focus(); }
    });
    if (!window.htmx || !$('live')) return;
    last = Date.now();
    drawAll(false);
    const on = (name, f) => document.body.addEventListener(name, f);
    on('htmx:sseOpen', () => { open = true; trouble = false; connection(); renew(); });
    on('htmx:sseError', () => { open = false; connection(); });
    on('htmx:sseMessage', renew);
    on('htmx:afterRequest', (e) => {
      if (e.target.id !== 'live') return;
      trouble = !e.detail.successful;
      connection();
      renewed();
    });
    on('htmx:afterSettle', () => { times(); drawAll(false); toEnd(); });
    setInterval(tick, 500);
    // A page that nobody sees needs no connection: browsers have few of them.
    let left = 0;
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) {
        left = setTimeout(() => {
          left = 0;
          disconnect();
        }, 30000);
        return;
      }
      if (left) clearTimeout(left);
      else reconnect();
      left = 0;
      renew();
    });
    addEventListener('pagehide', disconnect);
    addEventListener('pageshow', (e) => { if (e.persisted) { reconnect(); renew(); } });
  }

  if (window.htmx) {
    htmx.defineExtension('morph', {
      isInlineSwap: (style) => style === 'morph',
      handleSwap: (style, target, fragment) => {
        if (style !== 'morph') return false;
        const to = fragment.querySelector ? fragment.querySelector('#live') : null;
        if (!to) return false;
        follow();
        morph(target, to);
        return [target];
      },
    });
  }
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start);
  else start();
})();
