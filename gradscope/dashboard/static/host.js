// The page around the tab: TensorBoard's theme, its reload button and its address bar. Standing alone, a report file
// has its own address bar and follows the system's theme.

const OURS = 'gradscope';
const PREFIX = 'p.gradscope.';

const outer = (() => {
  try {
    return window.parent !== window && window.parent.document ? window.parent : null;
  } catch {
    return null; // framed by a page of another origin, as notebooks do
  }
})();

// Paper is white whatever the theme of the screen, and browsers leave the dark background out.
export function followTheme(changed) {
  const system = matchMedia('(prefers-color-scheme: dark)');
  const paper = matchMedia('print');
  const apply = (isPrinting) => {
    const isDark = outer ? outer.document.body.classList.contains('dark-mode') : system.matches;
    const dark = isDark && !isPrinting;
    document.documentElement.classList.toggle('dark', dark);
    changed(dark);
  };
  const follow = () => apply(paper.matches);
  if (outer) new MutationObserver(follow).observe(outer.document.body, {attributes: true, attributeFilter: ['class']});
  for (const query of [system, paper]) query.addEventListener('change', follow);
  addEventListener('beforeprint', () => apply(true));
  addEventListener('afterprint', () => apply(false));
  follow();
}

// Calls `reload` when the user presses TensorBoard's reload button, or when it reloads by itself.
export function onReload(reload) {
  if (!outer) return;
  const {port1, port2} = new MessageChannel();
  port1.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.isReply) return;
    if (message.type === 'experimental.DataReloaded') reload();
    port1.postMessage(JSON.stringify({type: message.type, id: message.id, payload: null, error: null, isReply: true}));
  };
  outer.postMessage('experimental.bootstrap', outer.location.origin, [port2]);
}

// TensorBoard hides a tab that is not in front, and leaves it running.
export function isShown() {
  return !document.hidden && window.frameElement?.style.visibility !== 'hidden';
}

let last = null;

export function readLink() {
  const parameters = {};
  last = (outer ?? window).location.hash;
  for (const token of (outer ?? window).location.hash.slice(1).split('&')) {
    const [key, value] = token.split('=');
    const name = decoded(key);
    if (value !== undefined && (name.startsWith(PREFIX) || !outer)) {
      parameters[name.replace(PREFIX, '')] = decoded(value);
    }
  }
  return parameters;
}

// Calls `changed` when another link is put into the address. TensorBoard puts the last one back when the tab comes to
// the front again, which is none.
export function onLink(changed) {
  const page = outer ?? window;
  page.addEventListener('hashchange', () => {
    const isOurs = !outer || page.location.hash.slice(1).split('&')[0] === OURS;
    if (isOurs && page.location.hash !== last) changed(readLink());
  });
}

// Puts the state into the address, only while it is ours: a hidden tab must not take another's.
export function writeLink(parameters) {
  const page = outer ?? window;
  const inFront = page.location.hash.slice(1).split('&')[0];
  if (outer && (!isShown() || (inFront && inFront !== OURS))) return;
  const hash = Object.entries(parameters)
    .filter(([, value]) => value)
    .map(([key, value]) => `${outer ? PREFIX : ''}${key}=${encodeURIComponent(value)}`);
  if (outer) hash.unshift(OURS);
  const address = page.location.pathname + page.location.search + (hash.length ? `#${hash.join('&')}` : '');
  try {
    page.history.replaceState(page.history.state, '', address);
    last = page.location.hash;
  } catch {
    // A browser that has had enough of changes refuses some: the next one will do.
  }
}

export function link() {
  return (outer ?? window).location.href;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a link cut off in the middle of a character
  }
}
