'use strict';

// The inspector: events of the agent, live, with what each handler did with them.
//
// Text from outside (payloads, handlers, the relay) enters the document as text nodes and attribute values alone, with invisible
// characters written as escapes. `list.events` is sorted by descending `sequence`, and only its visible rows are in the document.

const FIRST_PAGE = 100;
const NEXT_PAGE = 250;
const ANSWER_EVENTS_MAX = 500;
const EVENTS_MAX = 20_000;
const OVERSCAN_ROWS = 10;
const ROWS_LEFT_BEFORE_LOAD = 60;
const ESCAPES_MAX = 1_000;
const TEXT_MAX = 64 * 1024;
const STRING_MAX = 1_000;
const BRANCH_PAGE = 200;
const MATCHES_MAX = 10_000;
const ARGUMENT_MAX_BYTES = 100_000;
const RECONNECT_MAX_MS = 30_000;
const ANSWER_MS = 30_000;
const DEFAULT_TARGET = 'http://127.0.0.1:3000/';
const NOT_FORWARDED = new Set(['host', 'content-length', 'connection', 'transfer-encoding', 'accept-encoding', 'keep-alive', 'te',
  'trailer', 'upgrade', 'expect']);

const REASONS = {
  type: 'Its type is not one that this worker asked for.',
  team: 'Its team is not among those that this worker asked for and its user can see.',
  mine: 'It does not concern this user, and the filter asks for that.',
  application: 'It was for another application.',
  group: 'Another worker of the group got it.',
  withheld: 'The relay withholds it until the membership is checked.',
};

const RELAY_STATES = {
  live: ['good', 'live', 'The relay sends each event to this machine at once.'],
  away: ['warn', 'away', 'The relay parks events until this machine has emptied its mailbox.'],
  pull: ['good', 'pull', 'This machine has no address and asks the relay for events.'],
  paused: ['warn', 'paused', 'The operator of the relay has paused this worker.'],
};

const list = {
  events: [], more: false, filter: { text: '', type: '', state: '' }, load: null, isLoadingOlder: false,
  arrivedDuringLoad: [], problem: 'Loading…', selected: null, unseen: 0, rowsAbove: 0, isDue: false, elements: new Map(),
};
const pane = {
  id: null, event: null, load: null, loading: null, changedDuringLoad: false, refresh: null, tree: null, matches: [], match: -1,
  earlierBefore: 0,
};
const stream = { delayMs: 1_000, isReachable: true, source: null };
let agent = null;

const byId = (id) => document.getElementById(id);
const isNarrow = matchMedia('(max-width: 52rem)');

// ---- Text ----

// Control, format, bidi and default-ignorable characters. Emoji keep their joiners and variation selectors.
const INVISIBLE = /(?![\ufe0e\ufe0f]|\u200d\p{Extended_Pictographic})[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{DI}]/gu;

function escapeOf(character) {
  const short = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }[character];
  const hex = character.codePointAt(0).toString(16);
  return short ?? (hex.length > 4 ? `\\u{${hex}}` : `\\u${hex.padStart(4, '0')}`);
}

function visible(text) {
  return String(text).replace(INVISIBLE, escapeOf);
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ''));
  return element;
}

// Returns an element with text from outside. A `pre` keeps its line breaks and tabs.
function outside(text, tag = 'bdi', attributes = {}) {
  const element = make(tag, attributes);
  const whole = String(text);
  let from = 0;
  let escapes = 0;
  for (const { 0: character, index } of whole.matchAll(INVISIBLE)) {
    if (tag === 'pre' && (character === '\n' || character === '\t')) continue;
    if (escapes === ESCAPES_MAX) break;
    escapes += 1;
    element.append(whole.slice(from, index), make('span', { class: 'escaped' }, escapeOf(character)));
    from = index + character.length;
  }
  const rest = whole.slice(from);
  element.append(escapes < ESCAPES_MAX ? rest : visible(rest));
  return element;
}

// Shows the start of a long text, and all of it on request.
function longOutside(text, max, tag, attributes) {
  if (text.length <= max) return [outside(text, tag, attributes)];
  const start = outside(text.slice(0, max), tag, attributes);
  const button = make('button', { type: 'button', class: 'link', click: () => {
    start.replaceWith(outside(text, tag, attributes));
    button.remove();
  } }, `Show all ${count(text.length, 'character')}`);
  return [start, button];
}

// ---- Numbers and times ----

// Formatters are made once: `toLocaleString` makes a new one for each call.
const numberFormat = new Intl.NumberFormat('en');
const monthFormat = new Intl.DateTimeFormat('en', { month: 'short' });
const grouped = (number) => numberFormat.format(number);
const count = (number, noun) => `${grouped(number)} ${noun}${number === 1 ? '' : 's'}`;
const two = (number) => String(number).padStart(2, '0');

function duration(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return '';
  if (milliseconds < 1_000) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 60_000) return `${(milliseconds / 1_000).toFixed(1)} s`;
  return `${Math.floor(milliseconds / 60_000)} min ${Math.round((milliseconds % 60_000) / 1_000)} s`;
}

function size(bytes) {
  if (bytes < 1_024) return count(bytes, 'byte');
  return bytes < 1_048_576 ? `${(bytes / 1_024).toFixed(1)} KiB` : `${(bytes / 1_048_576).toFixed(1)} MiB`;
}

function clock(time) {
  const date = new Date(time);
  const ofDay = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (date.toDateString() === new Date().toDateString()) return `${ofDay}:${two(date.getSeconds())}`;
  return `${monthFormat.format(date)} ${date.getDate()} ${ofDay}`;
}

function timeOf(time) {
  return make('time', { datetime: time, title: time }, clock(time));
}

function ago(time) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1_000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3_600)} h ago` : `${count(Math.floor(seconds / 86_400), 'day')} ago`;
}

const kindOf = (event) => (event.action ? `${event.type}.${event.action}` : event.type);

function stateOf(word) {
  return make('span', { class: `state ${/^[a-z]+$/.test(word) ? word : ''}` }, visible(word === 'begun' ? 'running' : word));
}

// ---- The agent's API ----

async function api(path, options = {}) {
  let response;
  try {
    const signals = [options.signal, AbortSignal.timeout(ANSWER_MS)].filter(Boolean);
    response = await fetch(path, { ...options, signal: AbortSignal.any(signals) });
  } catch (error) {
    throw error.name === 'AbortError' ? error : new Error('The agent does not answer.');
  }
  setLocked(response.status === 401);
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.message ?? `The agent returned status ${response.status}.`);
}

function post(path, content) {
  const body = content === undefined ? undefined : JSON.stringify(content);
  return api(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
}

const pathOf = (id) => `api/events/${encodeURIComponent(id)}`;

// Runs what a reader asked for, and shows why it failed.
async function act(action) {
  try {
    await action();
  } catch (error) {
    if (error.name !== 'AbortError' && byId('locked').hidden) notify(error.message);
  }
}

let noticeTimer = 0;

function notify(text) {
  byId('notice').textContent = visible(text);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => { byId('notice').textContent = ''; }, 6_000);
}

function setLocked(isLocked) {
  byId('locked').hidden = !isLocked;
  for (const id of ['panes', 'connection', 'show-why']) byId(id).hidden = isLocked;
  for (const id of ['strip', 'pause']) byId(id).hidden = isLocked || agent === null;
}

// A browser opens six connections to a host at most, so that a tab that nobody sees has none.
function connect() {
  if (document.hidden || stream.source) return;
  const source = new EventSource('api/stream');
  stream.source = source;
  source.addEventListener('open', () => {
    stream.delayMs = 1_000;
    setReachable(true);
    setLocked(false);
    reload();
  });
  source.addEventListener('reload', reload);
  source.addEventListener('event', (message) => applyEvent(JSON.parse(message.data)));
  source.addEventListener('status', (message) => applyStatus(JSON.parse(message.data)));
  source.addEventListener('error', () => {
    setReachable(false);
    if (source.readyState !== EventSource.CLOSED) return;
    stream.source = null;
    setTimeout(connect, stream.delayMs);
    stream.delayMs = Math.min(stream.delayMs * 2, RECONNECT_MAX_MS);
    // An EventSource does not reveal a status; this request shows whether the key is missing.
    api('api/status').catch(() => {});
  });
}

function followVisibility() {
  if (!document.hidden) {
    connect();
    return;
  }
  stream.source?.close();
  stream.source = null;
}

// Reads again what may have changed while nobody told.
function reload() {
  loadFirst();
  if (pane.id) refreshPane();
}

function setReachable(isReachable) {
  if (stream.isReachable === isReachable) return;
  stream.isReachable = isReachable;
  byId('connection').textContent = isReachable ? '' : 'The agent does not answer';
  document.body.classList.toggle('lost', !isReachable);
}

// ---- The filter ----

// As the agent matches: a type alone, a type with an action or `*`, or `*` alone.
function matchesType(pattern, { type, action }) {
  return ['', '*', type, `${type}.*`, `${type}.${action}`].includes(pattern);
}

function matchesFilter(event) {
  const { text, type, state } = list.filter;
  if (state && event.state !== state) return false;
  if (!matchesType(type, event)) return false;
  const needle = text.toLowerCase();
  return [event.id, kindOf(event), event.identifier, event.title].some((part) => part?.toLowerCase().includes(needle));
}

function readFragment() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const state = byId('filter').querySelector(`[name=state][value="${CSS.escape(fragment.get('state') ?? '')}"]`);
  byId('filter-text').value = fragment.get('text') ?? '';
  byId('filter-type').value = fragment.get('type') ?? '';
  (state ?? byId('filter').elements.state[0]).checked = true;
  readFilter();
  const id = fragment.get('event');
  if (id && id !== pane.id) openEvent(id);
}

function writeFragment() {
  const fragment = new URLSearchParams(Object.entries({ ...list.filter, event: pane.id }).filter(([, value]) => value));
  history.replaceState(null, '', `${location.pathname}${fragment.size ? `#${fragment}` : ''}`);
}

function readFilter() {
  const filter = {
    text: byId('filter-text').value.trim(),
    type: byId('filter-type').value.trim(),
    state: byId('filter').elements.state.value,
  };
  const isChanged = Object.keys(filter).some((name) => filter[name] !== list.filter[name]);
  list.filter = filter;
  return isChanged;
}

function applyFilter() {
  if (!readFilter()) return;
  writeFragment();
  list.more = false;
  loadFirst(true);
}

function debounced(action, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}

// ---- The list ----

function page(parameters, signal) {
  const query = new URLSearchParams(Object.entries({ ...list.filter, ...parameters }).filter(([, value]) => value));
  return api(`api/events?${query}`, { signal });
}

async function loadFirst(isNewFilter = false) {
  list.load?.abort();
  const load = new AbortController();
  list.load = load;
  list.arrivedDuringLoad = [];
  const limit = isNewFilter ? FIRST_PAGE : Math.min(ANSWER_EVENTS_MAX, Math.max(FIRST_PAGE, list.events.length));
  try {
    const answer = await page({ limit }, load.signal);
    list.load = null;
    takeFirst(answer, isNewFilter);
  } catch (error) {
    if (error.name === 'AbortError') return;
    list.load = null;
    takeFirst({ events: isNewFilter ? [] : list.events, more: list.more }, isNewFilter);
    list.problem = error.message;
  }
}

// Events that arrived while the page was loading are newer than its answer.
function takeFirst({ events, more }, isNewFilter) {
  const newest = list.events[0]?.sequence ?? Infinity;
  const arrived = events.findIndex((event) => event.sequence <= newest);
  if (isNewFilter) byId('list').scrollTop = 0;
  if (byId('list').scrollTop > 0 && arrived > 0) {
    list.rowsAbove += arrived;
    list.unseen += arrived;
  }
  Object.assign(list, { events, more, problem: '' });
  for (const event of list.arrivedDuringLoad) applyEvent(event);
  renderSoon();
}

async function loadOlder() {
  if (list.isLoadingOlder || list.load || !list.more) return;
  list.isLoadingOlder = true;
  const { filter, events } = list;
  try {
    const answer = await page({ limit: NEXT_PAGE, before: events.at(-1)?.sequence });
    if (list.filter !== filter || list.events !== events) return;
    events.push(...answer.events);
    list.more = answer.more && events.length < EVENTS_MAX;
    renderSoon();
  } finally {
    list.isLoadingOlder = false;
  }
}

// Returns the index of the first event whose sequence is not greater than `sequence`.
function positionOf(sequence) {
  let low = 0;
  let high = list.events.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list.events[middle].sequence > sequence) low = middle + 1;
    else high = middle;
  }
  return low;
}

function applyEvent(event) {
  if (list.load) list.arrivedDuringLoad.push(event);
  const index = positionOf(event.sequence);
  const isListed = list.events[index]?.sequence === event.sequence;
  const isWanted = matchesFilter(event);
  if (isListed && isWanted) list.events[index] = event;
  else if (isListed) splice(index, 1);
  else if (isWanted && (index < list.events.length || !list.more)) splice(index, 0, event);
  if (event.id === pane.id) refreshPane();
  if (event.id === pane.loading) pane.changedDuringLoad = true;
  renderSoon();
}

// Inserts or removes one row. What the reader looks at does not move.
function splice(index, removed, ...added) {
  const isAbove = (index + 0.5) * rowHeight() < byId('list').scrollTop + list.rowsAbove * rowHeight();
  list.events.splice(index, removed, ...added);
  if (isAbove) list.rowsAbove += added.length - removed;
  if (isAbove && index === 0) list.unseen += added.length;
  if (list.events.length > EVENTS_MAX) {
    list.events.pop();
    list.more = false;
  }
}

// The stylesheet decides the height of a row, in pixels.
function rowHeight() {
  return parseFloat(getComputedStyle(byId('list')).getPropertyValue('--row')) || 32;
}

function renderSoon() {
  if (list.isDue) return;
  list.isDue = true;
  requestAnimationFrame(() => {
    list.isDue = false;
    renderList();
  });
}

function renderList() {
  const box = byId('list');
  const row = rowHeight();
  byId('rows').style.height = `${list.events.length * row}px`;
  if (list.rowsAbove !== 0) box.scrollTop += list.rowsAbove * row;
  list.rowsAbove = 0;
  const first = Math.max(0, Math.floor(box.scrollTop / row) - OVERSCAN_ROWS);
  const last = Math.min(list.events.length, Math.ceil((box.scrollTop + box.clientHeight) / row) + OVERSCAN_ROWS);
  renderRows(first, last, row);
  if (box.scrollTop < row) list.unseen = 0;
  byId('newer').hidden = list.unseen === 0;
  byId('newer').textContent = `↑ ${grouped(list.unseen)} new`;
  byId('empty').hidden = list.events.length > 0;
  byId('empty').textContent = visible(list.problem || noEventsText());
  if (list.more && last > list.events.length - ROWS_LEFT_BEFORE_LOAD) act(loadOlder);
}

// Only rows that enter or leave the window are inserted or removed, so that a click never meets a row that has been replaced.
function renderRows(first, last, height) {
  const rows = byId('rows');
  const wanted = new Map();
  for (let index = first; index < last; index += 1) {
    const event = list.events[index];
    const known = list.elements.get(event.sequence) ?? { element: make('div', { class: 'row', role: 'option', id: `row-${event.sequence}` }) };
    if (known.event !== event) fillRow(known.element, event);
    known.event = event;
    known.element.style.transform = `translateY(${index * height}px)`;
    known.element.setAttribute('aria-posinset', index + 1);
    known.element.setAttribute('aria-setsize', list.more ? -1 : list.events.length);
    known.element.setAttribute('aria-selected', event.sequence === list.selected);
    wanted.set(event.sequence, known);
  }
  for (const [sequence, { element }] of list.elements) if (!wanted.has(sequence)) element.remove();
  let next = rows.firstChild;
  for (const { element } of wanted.values()) {
    if (element === next) next = next.nextSibling;
    else rows.insertBefore(element, next);
  }
  list.elements = wanted;
  if (wanted.has(list.selected)) byId('list').setAttribute('aria-activedescendant', `row-${list.selected}`);
  else byId('list').removeAttribute('aria-activedescendant');
}

function fillRow(row, event) {
  const title = event.title === null ? make('span', { class: 'muted' }, 'no title') : outside(event.title.slice(0, 300));
  const attempts = event.attempts === 0 ? '–' : grouped(event.attempts);
  row.dataset.sequence = event.sequence;
  row.replaceChildren(
    timeOf(event.receivedAt),
    kindElement(event),
    make('span', { title: visible(event.title?.slice(0, 1_000) ?? '') },
      event.identifier === null ? null : outside(event.identifier, 'bdi', { class: 'identifier' }),
      event.editedFrom === null ? null : make('span', { class: 'tag' }, 'edited'), title),
    make('span', {}, stateOf(event.state), event.result === null ? null : outside(event.result.slice(0, 30), 'bdi', { class: 'result' })),
    make('span', { class: 'number' }, attempts, make('span', { class: 'unseen' }, event.attempts === 1 ? ' attempt' : ' attempts')),
    make('span', { class: 'number' }, duration(event.milliseconds)),
  );
}

function kindElement(event) {
  return make('span', { class: 'kind', title: visible(kindOf(event)) }, outside(event.type),
    event.action ? outside(`.${event.action}`, 'bdi', { class: 'action' }) : null);
}

function noEventsText() {
  if (Object.values(list.filter).some(Boolean)) return 'No event matches the filter.';
  return 'No events yet. Send a signed sample with “edge-agent send”.';
}

function select(index) {
  const event = list.events[Math.max(0, Math.min(index, list.events.length - 1))];
  if (!event) return;
  list.selected = event.sequence;
  scrollToRow(list.events.indexOf(event));
  if (pane.id !== null && !isNarrow.matches) openSelectedSoon();
  renderList();
}

function scrollToRow(index) {
  const box = byId('list');
  const row = rowHeight();
  if (index * row < box.scrollTop) box.scrollTop = index * row;
  else if ((index + 1) * row > box.scrollTop + box.clientHeight) box.scrollTop = (index + 1) * row - box.clientHeight;
}

function move(rows) {
  if (list.selected === null) return select(0);
  const index = positionOf(list.selected);
  const isListed = list.events[index]?.sequence === list.selected;
  return select(isListed || rows < 0 ? index + rows : index + rows - 1);
}

function selectedEvent() {
  const event = list.events[positionOf(list.selected ?? -1)];
  return event?.sequence === list.selected ? event : undefined;
}

const openSelectedSoon = debounced(() => { if (selectedEvent()) openEvent(selectedEvent().id); }, 60);

// ---- The event ----

async function openEvent(id, isFocused = false) {
  pane.load?.abort();
  pane.load = new AbortController();
  pane.loading = id;
  pane.changedDuringLoad = false;
  await act(async () => {
    const event = await api(pathOf(id), { signal: pane.load.signal });
    pane.loading = null;
    const isOther = pane.event?.id !== event.id;
    pane.id = event.id;
    pane.event = event;
    list.selected = event.sequence;
    showPane(true);
    renderEvent(event, isOther);
    writeFragment();
    if (isFocused) byId('event-title').focus();
    if (pane.changedDuringLoad) refreshPane();
  });
}

// Shows the new attempts of the open event. What is open in its body stays open.
const refreshPane = debounced(() => act(async () => {
  if (pane.id === null) return;
  pane.refresh?.abort();
  pane.refresh = new AbortController();
  const event = await api(pathOf(pane.id), { signal: pane.refresh.signal });
  if (pane.id !== event.id) return;
  pane.event = event;
  renderEvent(event, false);
}), 50);

function showPane(isOpen) {
  byId('pane').hidden = !isOpen;
  byId('panes').classList.toggle('split', isOpen);
  for (const element of [byId('main'), byId('header')]) element.inert = isOpen && isNarrow.matches;
  renderSoon();
}

function closePane() {
  pane.load?.abort();
  pane.id = null;
  pane.event = null;
  showPane(false);
  writeFragment();
  byId('list').focus({ preventScroll: true });
}

function renderEvent(event, isOther) {
  byId('event-title').replaceChildren(
    event.identifier === null ? '' : outside(event.identifier, 'bdi', { class: 'identifier' }),
    event.title === null ? kindElement(event) : outside(event.title.slice(0, 300)));
  byId('event-facts').replaceChildren(...factsOf(event));
  byId('warning').hidden = event.isIntact;
  byId('edit-and-replay').disabled = event.body === null;
  byId('save').href = `${pathOf(event.id)}/body`;
  renderAttempts(event);
  if (!isOther) return;
  renderChanges(event.changes);
  renderBody(event);
  renderTable('headers', event.headers.map(([name, value]) => [outside(name), outside(value)]));
  renderSignature(event.verdict);
  byId('pane').scrollTop = 0;
  pane.earlierBefore = event.sequence;
  byId('earlier').replaceChildren();
  act(loadEarlier);
}

function factsOf(event) {
  const facts = [
    stateOf(event.state),
    event.state === 'waiting' && event.dueAt !== null ? make('span', {}, 'next attempt at ', timeOf(event.dueAt)) : null,
    kindElement(event),
    timeOf(event.receivedAt),
    make('span', {}, size(event.size)),
    event.editedFrom === null ? null : make('span', {}, 'edited copy of ',
      make('button', { type: 'button', class: 'link', click: () => openEvent(event.editedFrom) }, outside(event.editedFrom))),
    outside(event.id, 'code'),
  ];
  return facts.filter((fact) => fact !== null);
}

function renderAttempts({ tries, state }) {
  const items = tries.map((attempt, index) => make('li', {},
    make('p', {}, stateOf(attempt.outcome), make('b', {}, `#${index + 1}`),
      attempt.result ? outside(attempt.result, 'bdi', { class: 'result' }) : null,
      outside(attempt.handler, 'code'), timeOf(attempt.at),
      make('span', { class: 'muted' }, duration(attempt.milliseconds))),
    ...(attempt.answer ? longOutside(attempt.answer, TEXT_MAX, 'pre', { tabindex: 0, 'aria-label': 'Answer or output' }) : [])));
  const none = make('li', { class: 'muted' }, state === 'waiting' ? 'No attempt yet.' : 'No attempt was made.');
  byId('attempts').replaceChildren(...(items.length ? items.reverse() : [none]));
}

function renderChanges(changes) {
  const shown = (value) => {
    if (value === null || value === undefined) return [make('span', { class: 'muted' }, 'nothing')];
    return longOutside(typeof value === 'string' ? value : JSON.stringify(value, null, 1), STRING_MAX, 'pre');
  };
  byId('changes-section').hidden = changes.length === 0;
  renderTable('changes', changes.map(({ field, before, after }) => [outside(field),
    make('del', {}, ...shown(before)), make('ins', {}, ...shown(after))]));
}

// Fills a table. The first cell of each row is its header.
function renderTable(id, rows) {
  const body = byId(id).tBodies[0];
  body.replaceChildren(...rows.map(([head, ...cells]) => make('tr', {}, make('th', { scope: 'row' }, head),
    ...cells.map((cell) => make('td', {}, cell)))));
}

function renderFacts(id, facts) {
  byId(id).replaceChildren(...facts.filter(Boolean).flatMap(([name, ...description]) => [make('dt', {}, name), make('dd', {}, ...description)]));
}

function renderSignature(verdict) {
  if (!verdict) {
    byId('signature').replaceChildren(make('p', { class: 'muted' }, 'The signature of this event was not checked.'));
    return;
  }
  const age = verdict.ageSeconds;
  const isAgeKnown = age !== null && age !== undefined;
  byId('signature').replaceChildren(
    make('p', {}, make('span', { class: `state ${verdict.isValid ? 'done' : 'dropped'}` }, verdict.isValid ? 'valid' : 'not known any more'),
      ' ', outside(verdict.reason)),
    make('p', { class: 'muted' }, verdict.secret ? `Secret: ${visible(verdict.secret)}. ` : 'No secret matches. ',
      isAgeKnown ? `Age at arrival: ${count(age, 'second')}.` : ''),
    make('ul', {}, ...verdict.comparisons.map(({ secret, value, matches }) => make('li', {},
      make('span', { class: matches ? 'good' : 'muted' }, matches ? 'matches' : 'differs'), ` the ${visible(secret)} secret, signature ${value}`))));
}

async function loadEarlier() {
  const { event } = pane;
  const query = new URLSearchParams({ key: event.key, before: pane.earlierBefore, limit: 20 });
  const answer = await api(`api/events?${query}`);
  if (pane.event?.id !== event.id) return;
  pane.earlierBefore = answer.events.at(-1)?.sequence ?? 0;
  byId('earlier').append(...answer.events.map((earlier) => make('li', {}, make('button', { type: 'button', click: () => openEvent(earlier.id, true) },
    timeOf(earlier.receivedAt), kindElement(earlier), outside(earlier.title?.slice(0, 300) ?? ''), stateOf(earlier.state)))));
  if (!byId('earlier').firstChild) byId('earlier').append(make('li', { class: 'muted' }, 'There are none.'));
  byId('earlier-more').hidden = !answer.more;
}

// ---- The body ----

// A number as the body writes it: digits that JavaScript would round are not lost.
class Exact {
  constructor(source) {
    this.source = source;
  }
}

function parsed(text) {
  try {
    return JSON.parse(text, (key, value, context) => (typeof value === 'number' && context?.source ? new Exact(context.source) : value));
  } catch (error) {
    // A reviver recurses and so fails on deep nesting; the parser alone does not.
    if (error instanceof RangeError) return JSON.parse(text);
    throw error;
  }
}

const isBranch = (value) => typeof value === 'object' && value !== null && !(value instanceof Exact);
const scalarText = (value) => (value instanceof Exact ? value.source : JSON.stringify(value));

// An object or array of the body. Its children enter the document when it is opened, some at a time.
class Branch {
  constructor(key, value, depth) {
    this.value = value;
    this.depth = depth;
    this.entries = Array.isArray(value) ? value.map((child, index) => [String(index), child]) : Object.entries(value);
    this.drawn = [];
    const length = count(this.entries.length, Array.isArray(value) ? 'item' : 'field');
    this.children = make('div', { class: 'children' });
    this.more = make('button', { type: 'button', class: 'link', click: () => this.draw(this.drawn.length + BRANCH_PAGE) }, '');
    this.line = make('summary', {}, ...keyOf(key), make('span', { class: 'muted' }, `${Array.isArray(value) ? '[ ]' : '{ }'} ${length}`));
    this.element = make('details', { toggle: () => { if (this.element.open && !this.drawn.length) this.draw(BRANCH_PAGE); } }, this.line, this.children);
    if (depth === 0 || (depth === 1 && this.entries.length <= 40)) this.open();
  }

  open() {
    if (!this.drawn.length) this.draw(BRANCH_PAGE);
    this.element.open = true;
  }

  draw(length) {
    this.more.remove();
    for (const [key, value] of this.entries.slice(this.drawn.length, length)) {
      const child = isBranch(value) ? new Branch(key, value, this.depth + 1) : leaf(key, value);
      this.drawn.push(child);
      this.children.append(child.element);
    }
    const left = this.entries.length - this.drawn.length;
    this.more.textContent = `Show more of ${grouped(left)} left`;
    if (left > 0) this.children.append(this.more);
  }

  // Opens the way to a value and returns its line.
  reveal(path) {
    let node = this;
    for (const index of path) {
      node.open();
      if (index >= node.drawn.length) node.draw(index + BRANCH_PAGE);
      node = node.drawn[index];
    }
    return node.line;
  }
}

const keyOf = (key) => (key === null ? [] : [outside(key, 'bdi', { class: 'key' }), ': ']);

function leaf(key, value) {
  const kind = value instanceof Exact ? 'number' : value === null ? 'null' : typeof value;
  const line = make('div', { class: 'leaf' }, ...keyOf(key), ...longOutside(scalarText(value), STRING_MAX, 'bdi', { class: kind }));
  return { element: line, line };
}

function renderBody(event) {
  const facts = make('p', { class: 'muted' }, `${size(event.size)} (${count(event.size, 'byte')}), SHA-256 `, outside(event.digest, 'code'));
  pane.tree = null;
  byId('search-text').value = '';
  if (event.body === null) {
    const why = event.size > 1_048_576 ? 'The body is larger than 1 MiB, so the page does not show it. ' : 'The body is not UTF-8, so the page cannot show it as text. ';
    const link = () => make('p', {}, why, make('a', { href: `${pathOf(event.id)}/body`, download: '' }, 'Download the raw bytes'));
    byId('pretty').replaceChildren(link());
    byId('raw').replaceChildren(facts, link());
  } else {
    byId('raw').replaceChildren(facts, ...longOutside(event.body, TEXT_MAX, 'pre', { tabindex: 0, 'aria-label': 'Raw body' }));
    renderTree(event.body);
  }
  search();
  selectTab(byId('tab-raw').getAttribute('aria-selected') === 'true');
}

function renderTree(text) {
  try {
    const value = parsed(text);
    pane.tree = isBranch(value) ? new Branch(null, value, 0) : null;
    byId('pretty').replaceChildren(pane.tree?.element ?? leaf(null, value).element);
  } catch (error) {
    byId('pretty').replaceChildren(make('p', { class: 'muted' }, `The body is not JSON: ${visible(error.message)}`));
  }
}

function selectTab(isRaw) {
  for (const [name, isSelected] of [['pretty', !isRaw], ['raw', isRaw]]) {
    byId(name).hidden = !isSelected;
    byId(`tab-${name}`).setAttribute('aria-selected', isSelected);
    byId(`tab-${name}`).tabIndex = isSelected ? 0 : -1;
  }
  byId('search').hidden = isRaw || pane.tree === null;
}

// The other view can be shorter, so the section returns to its start.
function chooseTab(isRaw) {
  selectTab(isRaw);
  const section = byId('pretty').parentElement;
  if (section.getBoundingClientRect().top < byId('event-title').getBoundingClientRect().top) section.scrollIntoView();
}

// Returns the paths of all keys and values that contain the text, in the order of the tree.
function matchesIn(root, needle) {
  const matches = [];
  const todo = [{ key: null, value: root, at: null }];
  while (todo.length && matches.length < MATCHES_MAX) {
    const { key, value, at } = todo.pop();
    const isFound = key?.toLowerCase().includes(needle) || (!isBranch(value) && scalarText(value).toLowerCase().includes(needle));
    if (isFound) matches.push(at);
    if (!isBranch(value)) continue;
    const entries = Object.entries(value);
    for (let index = entries.length - 1; index >= 0; index -= 1) {
      todo.push({ key: Array.isArray(value) ? null : entries[index][0], value: entries[index][1], at: { index, parent: at } });
    }
  }
  return matches;
}

function search() {
  const needle = byId('search-text').value.toLowerCase();
  byId('pretty').querySelector('.match')?.classList.remove('match');
  pane.matches = needle && pane.tree ? matchesIn(pane.tree.value, needle) : [];
  pane.match = -1;
  byId('search-count').textContent = '';
  if (needle) step(1);
}

function step(by) {
  const { matches, tree } = pane;
  byId('pretty').querySelector('.match')?.classList.remove('match');
  if (!matches.length) {
    byId('search-count').textContent = byId('search-text').value ? 'no match' : '';
    return;
  }
  pane.match = (Math.max(pane.match, by < 0 ? 0 : -1) + by + matches.length) % matches.length;
  const path = [];
  for (let at = matches[pane.match]; at; at = at.parent) path.unshift(at.index);
  const line = tree.reveal(path);
  line.classList.add('match');
  line.scrollIntoView({ block: 'nearest' });
  byId('search-count').textContent = `${grouped(pane.match + 1)} of ${grouped(matches.length)}${matches.length === MATCHES_MAX ? '+' : ''}`;
}

// ---- Replay ----

async function replay(event) {
  await post(`${pathOf(event.id)}/replay`);
  notify('The event is handled again.');
}

async function retryFailed() {
  const { replayed } = await post('api/replay', { state: 'failed' });
  notify(`${count(replayed, 'event')} ${replayed === 1 ? 'is' : 'are'} replayed.`);
}

async function startEdit({ id }) {
  const event = pane.event?.id === id ? pane.event : await api(pathOf(id));
  if (event.body === null) throw new Error('The body is larger than 1 MiB or not UTF-8, so it cannot be edited here.');
  byId('edit').dataset.id = id;
  byId('edit-text').value = indented(event.body);
  checkEdit();
  byId('edit').showModal();
  byId('edit-text').setSelectionRange(0, 0);
  byId('edit-text').scrollTop = 0;
}

// Indents JSON token by token, so that numbers keep their digits. Invisible characters, which in JSON can only be in strings, become
// JSON escapes. Text that is not JSON stays as it is.
function indented(text) {
  if (jsonProblem(text)) return text;
  let depth = 0;
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gs);
  const line = () => `\n${'  '.repeat(Math.min(depth, 40))}`;
  const written = tokens.map((token, index) => {
    if (token === ':') return ': ';
    if (token === ',') return `,${line()}`;
    if ('{['.includes(token)) {
      depth += 1;
      return '}]'.includes(tokens[index + 1]) ? token : token + line();
    }
    if (!'}]'.includes(token)) return token.replace(INVISIBLE, jsonEscape);
    depth -= 1;
    return '{['.includes(tokens[index - 1]) ? token : line() + token;
  });
  return written.join('');
}

function jsonEscape(character) {
  return Array.from({ length: character.length }, (_, index) => `\\u${character.charCodeAt(index).toString(16).padStart(4, '0')}`).join('');
}

function jsonProblem(text) {
  try {
    JSON.parse(text);
    return '';
  } catch (error) {
    return error.message;
  }
}

function checkEdit() {
  const problem = jsonProblem(byId('edit-text').value);
  byId('edit-problem').textContent = problem ? `This is not JSON: ${visible(problem)}` : '';
}

async function sendEdit() {
  try {
    const event = await post(`${pathOf(byId('edit').dataset.id)}/replay`, { body: byId('edit-text').value });
    byId('edit').close();
    openEvent(event.id);
    notify('The edited copy is replayed.');
  } catch (error) {
    byId('edit-problem').textContent = visible(error.message);
  }
}

// ---- Copy as curl ----

// Quotes one argument of a POSIX shell. Control and invisible characters are written as the octal escapes of their UTF-8 bytes.
function quoted(text) {
  if (text.search(INVISIBLE) < 0) return `'${text.replaceAll("'", "'\\''")}'`;
  const octal = (character) => Array.from(new TextEncoder().encode(character), (byte) => `\\${byte.toString(8).padStart(3, '0')}`).join('');
  return `$'${text.replace(/[\\']/g, '\\$&').replace(INVISIBLE, octal).replaceAll('!', '\\041')}'`;
}

function fixtureName(event) {
  return `${kindOf(event)}-${event.id}.json`.replace(/[^\w.-]/g, '_');
}

// A shell argument cannot hold NUL, nor on Linux more than 128 KiB.
function isForFile({ body }) {
  return body === null || body.includes('\0') || new TextEncoder().encode(body).length > ARGUMENT_MAX_BYTES;
}

// `--data-raw` takes a leading `@` literally, where `--data-binary` would read a file.
function bodyArgument(event) {
  if (isForFile(event)) return `--data-binary ${quoted(`@${fixtureName(event)}`)}`;
  return `${event.body.startsWith('@') ? '--data-raw' : '--data-binary'} ${quoted(event.body)}`;
}

function curlOf(event) {
  const target = agent?.handlers.map(({ handler }) => handler).find((handler) => /^https?:\/\//.test(handler)) ?? DEFAULT_TARGET;
  const headers = event.headers.filter(([name]) => /^[\w!#$%&'*+.^`|~-]+$/.test(name) && !NOT_FORWARDED.has(name.toLowerCase()));
  const arguments_ = headers.map(([name, value]) => `-H ${quoted(value === '' ? `${name};` : `${name}: ${value}`)}`);
  return [`curl -X POST ${quoted(target)}`, ...arguments_, bodyArgument(event)].join(' \\\n  ');
}

async function copyAsCurl({ id }) {
  const event = pane.event?.id === id ? pane.event : await api(pathOf(id));
  const command = curlOf(event);
  try {
    await navigator.clipboard.writeText(command);
    notify(isForFile(event) ? 'Copied. The command reads the body from a file: save it as a fixture first.' : 'Copied as curl.');
  } catch {
    byId('by-hand-text').value = command;
    byId('by-hand').showModal();
    byId('by-hand-text').select();
    notify('The browser did not allow the page to copy.');
  }
}

// ---- Health ----

function applyStatus(status) {
  agent = status;
  setLocked(false);
  renderStatus();
}

function renderStatus() {
  if (!agent) return;
  const { events, isPaused, name, workspace } = agent;
  byId('worker').replaceChildren(outside(name), workspace === null ? '' : ' in ', workspace === null ? '' : outside(workspace));
  byId('relay').replaceChildren(...relayFacts(agent));
  byId('address').replaceChildren(...addressFacts(agent));
  byId('handlers').replaceChildren(...handlerFacts(agent.handlers, 2));
  byId('waiting').replaceChildren(...waitingFacts(agent));
  renderHour(agent);
  renderProblems(agent);
  renderFacts('missing', [...missingFacts(agent.atRelay), ...agent.refusals.map(({ at, reason }) => ['Refused', timeOf(at), ' ', outside(reason)])]);
  renderFacts('facts', connectionFacts(agent));
  byId('pause').textContent = isPaused ? 'Resume' : 'Pause';
  byId('pause').classList.toggle('primary', isPaused);
  byId('retry-failed').hidden = events.failed === 0;
  for (const radio of byId('filter').elements.state) {
    if (radio.value) radio.parentElement.querySelector('b').textContent = grouped(events[radio.value]);
  }
  document.title = `${events.failed ? `(${grouped(events.failed)} failed) ` : ''}${visible(name)} – edge-agent`;
}

const light = (level) => make('span', { class: `light ${level}`, 'aria-hidden': 'true' });
const fact = (...children) => make('span', { class: 'fact' }, ...children);
const lesser = (...children) => make('span', { class: 'fact muted' }, ...children);

function relayFacts({ state, atRelay, renewedAt }) {
  const leaseUntil = atRelay?.leaseUntil ?? null;
  const [level, word, meaning] = RELAY_STATES[state] ?? ['bad', state ?? 'not registered', 'The relay does not know this worker.'];
  const isExpired = leaseUntil !== null && Date.parse(leaseUntil) < Date.now();
  return [
    make('span', { class: 'fact', title: meaning }, light(isExpired ? 'bad' : level), make('b', {}, visible(word)),
      renewedAt === null ? ' never answered' : make('span', { title: renewedAt }, ` answered ${ago(renewedAt)}`)),
    leaseUntil === null ? lesser('lease not known') : lesser(isExpired ? 'lease ended at ' : 'lease until ', timeOf(leaseUntil)),
  ];
}

function addressFacts({ address, tunnel, poll }) {
  const how = tunnel === null ? '' : visible(tunnel);
  if (address === null) return [fact(make('b', {}, 'none')), lesser(tunnel === null ? `asks the relay every ${visible(poll)}` : `${how} has no address yet: asks every ${visible(poll)}`)];
  return [fact(outside(address.replace(/^https:\/\//, ''), 'b', { title: visible(address) })), lesser(how || 'your own address')];
}

// Handlers that are not there come first.
function handlerFacts(handlers, limit) {
  if (!handlers.length) return [fact('none'), lesser('events are printed on stdout')];
  const sorted = [...handlers].sort((a, b) => (a.isThere === false ? 0 : 1) - (b.isThere === false ? 0 : 1));
  const facts = sorted.slice(0, limit).map(({ handler, isThere, why }) => {
    const level = { true: 'good', false: 'bad', null: 'off' }[String(isThere)];
    const word = isThere === null ? ' not looked for yet' : isThere ? ' there' : ` not there${why ? `: ${visible(why)}` : ''}`;
    return make('span', { class: 'fact', title: visible(handler + word) }, light(level), outside(handler.replace(/^http:\/\//, ''), 'b'),
      make('span', { class: isThere === false ? 'bad' : 'muted' }, word));
  });
  if (sorted.length > limit) facts.push(lesser(`and ${sorted.length - limit} more`));
  return facts;
}

function waitingFacts({ events, atRelay, isPaused }) {
  const atRelayText = atRelay === null ? 'not known at the relay' : atRelay.waiting ? 'more at the relay' : 'none at the relay';
  return [fact(light(isPaused ? 'warn' : events.waiting ? 'off' : 'good'), make('b', {}, `${grouped(events.waiting)} here`), isPaused ? ' paused' : ''),
    lesser(atRelayText)];
}

// The live region is written only when its text changes, so that a screen reader does not repeat it.
function renderProblems({ problem, refused, healthy, why, isPaused, clockAheadS, membershipDueAt }) {
  const direction = clockAheadS > 0 ? 'ahead of' : 'behind';
  const problems = new Map([[problem, 'bad'], [refused && `a delivery was refused at ${refused}`, 'bad'], [healthy ? null : why, 'bad'],
    [isPaused && 'Handling is paused. Events are stored and wait.', 'warn'],
    [clockAheadS !== 0 && `The clock of this machine is ${count(Math.abs(clockAheadS), 'second')} ${direction} the relay’s.`, 'warn'],
    [membershipDueAt && `The membership has to be checked by ${clock(membershipDueAt)}: the agent needs a Linear token.`, 'warn']]);
  const items = [...problems].filter(([text]) => text).map(([text, level]) => outside(text, 'li', { class: level }));
  const isSame = items.map((item) => item.textContent).join() === Array.from(byId('problems').children, (item) => item.textContent).join();
  if (!isSame) byId('problems').replaceChildren(...items);
}

function missingFacts(atRelay) {
  if (atRelay === null) return [['Not known', 'The relay does not answer, or was not asked yet.']];
  const { withheld, notDelivered, waiting, expired, lastError, types } = atRelay;
  const reasons = Object.entries(notDelivered).filter(([, number]) => number > 0);
  return [
    ...reasons.map(([reason, number]) => [count(number, 'event'), REASONS[reason] ?? `The reason is ${visible(reason)}.`]),
    reasons.length ? null : ['None', 'Every event of the last day was for this worker.'],
    withheld ? ['Withheld', `${count(withheld, 'event')} until the membership is checked.`] : null,
    ['Parked', waiting ? 'Events wait at the relay until this machine fetches them.' : 'No event waits at the relay.'],
    expired === null ? null : ['Expired', `${count(expired.count, 'event')} since `, timeOf(expired.since)],
    lastError === null ? null : ['Last error', outside(lastError.reason), ', ', timeOf(lastError.at)],
    ['Asks for', types === null ? 'all types' : outside(types.join(', '))],
  ];
}

function connectionFacts({ relay, address, tunnel, listen, handlers, pid, startedAt, lastEvent }) {
  return [
    ['Relay', outside(relay)],
    ['Address', address === null ? 'none' : outside(address), tunnel === null ? '' : ` (${visible(tunnel)})`],
    ['Handlers', ...handlerFacts(handlers, 100)],
    ['Agent', `process ${pid}, listens on ${visible(listen)}, since `, timeOf(startedAt)],
    ['Last event', lastEvent === null ? 'none' : outside(lastEvent)],
  ];
}

function renderHour({ activity, medianMilliseconds }) {
  const deliveries = activity.reduce((sum, minute) => sum + minute.deliveries, 0);
  const number = deliveries === 1 ? '1 delivery' : `${grouped(deliveries)} deliveries`;
  const median = medianMilliseconds === null ? '' : `, median ${duration(medianMilliseconds)}`;
  byId('hour').replaceChildren(sparkline(activity, `${number} in the last hour${median}`),
    make('span', { class: 'fact muted', 'aria-hidden': 'true' }, number + median));
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Deliveries are bars and the median latency is a line, which breaks where a minute has none.
function sparkline(activity, words) {
  const height = 22;
  const most = Math.max(1, ...activity.map((minute) => minute.deliveries));
  const slowest = Math.max(1, ...activity.map((minute) => minute.milliseconds ?? 0));
  const bars = activity.map(({ deliveries }, index) => {
    const length = deliveries === 0 ? 0 : Math.max(1.5, (deliveries / most) * height);
    return svg('rect', { x: index * 3, y: height - length, width: 2, height: length });
  });
  let pen = 'M';
  const path = activity.map(({ milliseconds }, index) => {
    const point = milliseconds === null ? '' : `${pen}${index * 3 + 1} ${(height - 1 - (milliseconds / slowest) * (height - 4)).toFixed(1)}`;
    pen = milliseconds === null ? 'M' : 'L';
    return point;
  }).join('');
  return svg('svg', { viewBox: `0 0 180 ${height}`, role: 'img', 'aria-label': words, class: 'sparkline' },
    svg('title', {}, words), ...bars, svg('path', { d: path }));
}

// ---- Keyboard and pointer ----

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  r: () => onCurrent(replay),
  e: () => onCurrent(startEdit),
  c: () => onCurrent(copyAsCurl),
  '/': () => byId('filter-text').focus(),
  '?': () => byId('help').showModal(),
  Escape: goBack,
};

const LIST_KEYS = {
  ArrowDown: () => move(1),
  ArrowUp: () => move(-1),
  PageDown: () => move(Math.floor(byId('list').clientHeight / rowHeight())),
  PageUp: () => move(-Math.floor(byId('list').clientHeight / rowHeight())),
  Home: () => select(0),
  End: () => select(list.events.length - 1),
};

function onCurrent(action) {
  const event = pane.event ?? selectedEvent();
  if (event) act(() => action(event));
}

function goBack() {
  if (byId('why').matches(':popover-open')) byId('why').hidePopover();
  else if (pane.id !== null) closePane();
}

function onKey(key) {
  const { target } = key;
  if (key.ctrlKey || key.metaKey || key.altKey || key.isComposing || document.querySelector('dialog[open]')) return;
  if (target.closest('input:not([type=radio]), textarea, select, [contenteditable]')) return;
  const isOnList = target === document.body || target.id === 'list';
  const enter = key.key === 'Enter' && isOnList && selectedEvent() ? () => openEvent(selectedEvent().id, true) : undefined;
  const action = enter ?? KEYS[key.key] ?? (isOnList ? LIST_KEYS[key.key] : undefined);
  if (!action) return;
  key.preventDefault();
  action();
}

function onRowClick(click) {
  const row = click.target.closest('[role=option]');
  if (!row) return;
  const index = positionOf(Number(row.dataset.sequence));
  list.selected = list.events[index]?.sequence ?? null;
  renderList();
  if (selectedEvent()) openEvent(selectedEvent().id, isNarrow.matches);
}

const on = (id, type, action) => byId(id).addEventListener(type, action);

function onSubmit(id, action) {
  on(id, 'submit', (submit) => {
    submit.preventDefault();
    action();
  });
}

function listenList() {
  const focusList = () => byId('list').focus();
  on('list', 'scroll', renderSoon);
  on('list', 'click', onRowClick);
  on('newer', 'click', () => { byId('list').scrollTop = 0; });
  on('filter', 'input', debounced(applyFilter, 200));
  onSubmit('filter', () => {
    applyFilter();
    focusList();
  });
  // The fragment belongs to the filter, so the skip link does not change it.
  on('skip', 'click', (click) => {
    click.preventDefault();
    focusList();
  });
  new ResizeObserver(renderSoon).observe(byId('list'));
}

function listenPane() {
  const title = byId('event-title').parentElement;
  new ResizeObserver(() => byId('pane').style.setProperty('--title', `${title.offsetHeight}px`)).observe(title);
  on('close', 'click', closePane);
  on('replay', 'click', () => act(() => replay(pane.event)));
  on('edit-and-replay', 'click', () => act(() => startEdit(pane.event)));
  on('copy', 'click', () => act(() => copyAsCurl(pane.event)));
  on('earlier-more', 'click', () => act(loadEarlier));
  on('search-text', 'input', debounced(search, 200));
  on('search-previous', 'click', () => step(-1));
  onSubmit('search', () => step(1));
  for (const name of ['pretty', 'raw']) {
    on(`tab-${name}`, 'click', () => chooseTab(name === 'raw'));
    on(`tab-${name}`, 'keydown', (key) => {
      if (key.key !== 'ArrowLeft' && key.key !== 'ArrowRight') return;
      chooseTab(name === 'pretty');
      byId(name === 'pretty' ? 'tab-raw' : 'tab-pretty').focus();
    });
  }
}

function listenAgent() {
  on('pause', 'click', () => act(async () => applyStatus(await post('api/handler', { paused: !agent.isPaused }))));
  on('retry-failed', 'click', () => act(retryFailed));
  on('show-help', 'click', () => byId('help').showModal());
  on('edit-text', 'input', debounced(checkEdit, 300));
  on('edit-text', 'keydown', (key) => { if (key.key === 'Enter' && (key.ctrlKey || key.metaKey)) byId('edit-form').requestSubmit(); });
  onSubmit('edit-form', sendEdit);
  for (const button of document.querySelectorAll('[data-close]')) button.addEventListener('click', () => button.closest('dialog').close());
}

function start() {
  const address = new URL(location.href);
  if (address.searchParams.has('key')) {
    address.searchParams.delete('key');
    history.replaceState(null, '', address);
  }
  listenList();
  listenPane();
  listenAgent();
  document.addEventListener('keydown', onKey);
  isNarrow.addEventListener('change', () => showPane(pane.id !== null));
  window.addEventListener('hashchange', () => {
    readFragment();
    loadFirst(true);
  });
  setInterval(() => { if (agent) byId('relay').replaceChildren(...relayFacts(agent)); }, 10_000);
  readFragment();
  document.addEventListener('visibilitychange', followVisibility);
  connect();
}

start();
