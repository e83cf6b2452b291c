// Where TensorBoard begins: it imports this module into the tab's frame and calls `render`. All that the page needs is
// asked for at once, so that nothing waits for its turn.

export async function render() {
  const style = document.createElement('link');
  style.rel = 'stylesheet';
  style.href = new URL('./style.css', import.meta.url).href;
  // Without it the canvases would not know their widths and colours.
  const styled = new Promise((done) => { style.onload = style.onerror = done; });
  document.head.append(style);
  document.documentElement.lang = 'en';
  const [{App}, {Server}] = await Promise.all([import('./app.js'), import('./source.js'), styled]);
  await new App(document.body, new Server()).start();
}
