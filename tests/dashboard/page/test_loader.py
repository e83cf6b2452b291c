"""What is fetched, when it is fetched again, and what is kept: with a source that answers when the test says so."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

# `asked` lists what is on its way; `answer` and `refuse` settle the first of that name and wait for what follows.
WITH_FAKE = """async (m) => {
  const asked = [];
  const log = [];
  const ask = (what) => new Promise((done, fail) => {
    asked.push({what, done, fail});
    log.push(what);
  });
  let listing = [];
  const source = {
    runs: async () => structuredClone(listing.length ? listing : await ask('runs')),
    summary: (run) => ask(`summary ${run}`),
    layer: (run, layer) => ask(`layer ${run} ${layer}`),
    matrix: (run, metric, {records, after}) =>
      ask(`matrix ${run} ${metric}${records ? ' quick' : ''}${after ? ` after ${after}` : ''}`),
  };
  let changes = 0;
  const loader = new m.Loader(source, () => { changes += 1; });
  const settle = async (what, how) => {
    const at = asked.findIndex((one) => one.what === what);
    if (at < 0) throw new Error(`${what} is not on its way: ${asked.map((one) => one.what).join(', ')}`);
    how(asked.splice(at, 1)[0]);
    await new Promise((done) => setTimeout(done)); // until all has happened that follows from it
  };
  const answer = (what, value) => settle(what, ({done}) => done(value));
  const refuse = (what, words) => settle(what, ({fail}) => fail(new Error(words)));
  const waiting = () => asked.map((one) => one.what).sort();
  const list = async (...runs) => {
    listing = runs.map((run) => ({name: run[0], version: run.slice(1)}));
    await loader.list();
  };
  const matrix = (steps, rest = {}) => ({
    steps, layers: [{name: 'l'}], data: Float32Array.from(steps), complete: true, token: `t${steps.length}`, ...rest,
  });
  const heavy = (token) => ({...matrix([1]), token, data: {byteLength: 200e6}});
  const summary = (...layers) => ({summary: {layers: layers.map((name) => ({name}))}});
  const stepsOf = (run, metric = 'g') => loader.get('matrix', run, metric)?.steps ?? null;
  const firstLayerOf = (run) => loader.get('summary', run).summary.layers[0].name;
  const wish = (runs, metric = 'g', layer = null) => loader.want({runs, metric, layer});
  BODY
}"""


@pytest.fixture(scope="module")
def play(module_of: Callable[[str], Module]) -> Callable[[str], Any]:
    loader = module_of("loader.js")
    return lambda body: loader.run(WITH_FAKE.replace("BODY", body))


def test_a_quick_picture_first_then_all_records(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1');
      wish(['a']);
      const first = waiting();
      await answer('matrix a g quick', matrix([0, 9], {complete: false}));
      const [then, shown] = [waiting(), stepsOf('a')];
      await answer('matrix a g', matrix([0, 5, 9]));
      return [first, shown, then, stepsOf('a'), waiting(), loader.isBusy];
    """) == [["matrix a g quick"], [0, 9], ["matrix a g", "summary a"], [0, 5, 9], ["summary a"], True]


def test_neither_verdicts_nor_more_records_are_asked_for_before_the_first_pictures(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1', 'b1', 'c1');
      wish(['b', 'a', 'unknown']);
      const first = waiting();
      await answer('matrix a g quick', matrix([1], {complete: false}));
      const between = waiting();
      await answer('matrix b g quick', matrix([1]));
      return [first, between, waiting()];
    """) == [["matrix a g quick", "matrix b g quick"], ["matrix b g quick"], ["matrix a g", "summary a", "summary b"]]


def test_nothing_is_fetched_again_while_the_run_stays_as_it_is(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1');
      wish(['a']);
      await answer('matrix a g quick', matrix([1]));
      await answer('summary a', summary('x'));
      const before = [log.length, changes];
      for (let i = 0; i < 3; i++) { loader.retry(); await list('a1'); wish(['a']); }
      return [log.length - before[0], changes - before[1], waiting(), loader.isBusy];
    """) == [0, 0, [], False]


def test_what_came_after_is_put_behind_and_the_old_stays_until_then(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1');
      wish(['a']);
      await answer('matrix a g quick', matrix([1, 2]));
      await answer('summary a', summary('old'));
      await list('a2');
      wish(['a']);
      const between = [waiting(), stepsOf('a'), firstLayerOf('a')];
      await answer('matrix a g after t2', matrix([3], {appended: true, token: 'next'}));
      await answer('summary a', summary('new'));
      const after = [stepsOf('a'), Array.from(loader.get('matrix', 'a', 'g').data), firstLayerOf('a')];
      await list('a3');
      wish(['a']);
      const last = waiting();
      await answer('matrix a g after next', matrix([7, 8]));
      return [between, after, last, stepsOf('a')];
    """) == [
        [["matrix a g after t2", "summary a"], [1, 2], "old"],
        [[1, 2, 3], [1, 2, 3], "new"],
        ["matrix a g after next", "summary a"],
        [7, 8],  # no longer the same run: not put behind
    ]


def test_a_choice_of_records_has_nothing_behind_which_later_ones_could_be_put(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1');
      wish(['a']);
      await answer('matrix a g quick', matrix([0, 9], {complete: false, token: 'partial'}));
      await refuse('matrix a g', 'no');
      loader.retry();
      await list('a2');
      wish(['a']);
      return waiting();
    """) == ["matrix a g", "summary a"]


def test_a_run_that_grows_while_it_is_fetched_is_fetched_once_more(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1');
      wish(['a']);
      await list('a2');
      wish(['a']);
      await list('a3');
      wish(['a']);
      const once = log.filter((what) => what.startsWith('matrix')).length;
      await answer('matrix a g quick', matrix([1]));
      const again = waiting();
      await answer('matrix a g after t1', matrix([2], {appended: true}));
      return [once, again, stepsOf('a'), waiting()];
    """) == [1, ["matrix a g after t1", "summary a"], [1, 2], ["summary a"]]


def test_an_error_is_kept_beside_what_was_there_and_retried_when_told(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1');
      wish(['a']);
      await answer('matrix a g quick', matrix([1]));
      await answer('summary a', summary('x'));
      await list('a2');
      wish(['a']);
      await refuse('matrix a g after t1', 'It broke.');
      await answer('summary a', summary('x'));
      wish(['a']);
      const broken = [loader.errorOf('matrix', 'a', 'g'), stepsOf('a'), waiting()];
      loader.retry();
      wish(['a']);
      const again = waiting();
      await answer('matrix a g after t1', matrix([2], {appended: true}));
      return [broken, again, loader.errorOf('matrix', 'a', 'g'), stepsOf('a'), waiting()];
    """) == [["It broke.", [1], []], ["matrix a g after t1"], None, [1, 2], []]


def test_one_run_that_cannot_be_read_does_not_hold_up_the_others(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1', 'b1');
      wish(['a', 'b']);
      await refuse('matrix a g quick', 'It broke.');
      await answer('matrix b g quick', matrix([1]));
      return [waiting(), loader.errorOf('matrix', 'a', 'g'), loader.get('matrix', 'a', 'g')];
    """) == [["summary a", "summary b"], "It broke.", None]


def test_a_layer_is_asked_for_only_of_runs_that_have_it(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1', 'b1');
      wish(['a', 'b'], 'g', '');
      await answer('matrix a g quick', matrix([1]));
      await answer('matrix b g quick', matrix([1]));
      const before = waiting();
      await answer('summary a', summary('x'));
      await answer('summary b', summary('x', ''));
      await answer('layer b ', {metrics: {}});
      return [before, waiting(), loader.get('layer', 'b', '') !== null, loader.get('layer', 'a', '')];
    """) == [["summary a", "summary b"], [], True, None]


def test_a_wish_that_changed_is_followed_and_what_still_arrives_is_kept(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1');
      wish(['a'], 'g');
      wish(['a'], 'h');
      await answer('matrix a g quick', matrix([1], {complete: false}));
      const [between, kept] = [waiting(), stepsOf('a', 'g')];
      await answer('matrix a h quick', matrix([2]));
      const after = waiting();
      wish(['a'], 'g');
      return [between, kept, after, waiting()];
    """) == [["matrix a h quick"], [1], ["summary a"], ["matrix a g", "summary a"]]


def test_the_list_of_runs_is_told_once_for_each_change(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1');
      await list('a1');
      const same = changes;
      await list('a1', 'b1');
      listing = [];
      const failing = loader.list();
      await refuse('runs', 'Nobody there.');
      await failing;
      const broken = [loader.error, loader.runs.map((run) => run.name)];
      await list('a1', 'b1');
      return [same, changes, broken, loader.error, loader.runs.length];
    """) == [1, 3, ["Nobody there.", ["a", "b"]], None, 2]


def test_what_nobody_looks_at_is_forgotten_where_there_is_too_much(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1', 'b1', 'c1');
      const kept = () => ['a', 'b', 'c'].filter((run) => loader.get('matrix', run, 'g') !== null);
      wish(['a']);
      await answer('matrix a g quick', heavy('t'));
      wish(['b']);
      await answer('matrix b g quick', heavy('t'));
      const two = kept();
      wish(['a']);
      return [two, kept(), waiting()];
    """) == [["b"], ["b"], ["matrix a g quick", "summary a", "summary b"]]


def test_all_that_is_looked_at_stays_however_much_it_is(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1', 'b1', 'c1');
      wish(['a', 'b', 'c']);
      for (let i = 0; i < 6; i++) {
        for (const run of ['a', 'b', 'c']) {
          if (waiting().includes(`matrix ${run} g quick`)) await answer(`matrix ${run} g quick`, heavy('t'));
        }
      }
      return [log.filter((what) => what.startsWith('matrix')), waiting()];
    """) == [["matrix a g quick", "matrix b g quick", "matrix c g quick"], ["summary a", "summary b", "summary c"]]


def test_a_verdict_in_use_outlives_the_metrics_looked_at(play: Callable[[str], Any]) -> None:
    assert play("""
      await list('a1');
      wish(['a']);
      await answer('matrix a g quick', matrix([1]));
      await answer('summary a', summary('x'));
      for (const metric of ['h', 'k', 'n']) {
        wish(['a'], metric);
        await answer(`matrix a ${metric} quick`, heavy('t'));
      }
      const kept = ['g', 'h', 'k', 'n'].filter((metric) => stepsOf('a', metric));
      return [loader.get('summary', 'a') !== null, kept, waiting()];
    """) == [True, ["n"], []]


@pytest.mark.parametrize("answered", [True, False])
def test_how_long_the_source_takes_again_and_again_is_known(answered: bool, play: Callable[[str], Any]) -> None:
    """The first reading is the long one, and comes once: who waits for the next look shall not wait for it tenfold."""
    first, again, then = play(f"""
      const pause = () => new Promise((done) => setTimeout(done, 50));
      await list('a1');
      wish(['a']);
      await pause();
      await answer('matrix a g quick', matrix([1]));
      const first = loader.takeSeconds();
      await list('a2');
      wish(['a']);
      await pause();
      await {"answer('matrix a g after t1', matrix([1]))" if answered else "refuse('matrix a g after t1', 'no')"};
      return [first, loader.takeSeconds(), loader.takeSeconds()];
    """)
    assert first < 0.04 < again < 10
    assert then == 0
