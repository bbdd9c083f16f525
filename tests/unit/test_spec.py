"""The little language: one canonical text per meaning, and one line for every mistake."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisebench.core.expressions import Call, Sum, parse, parse_value
from noisebench.core.parameters import Interval, OneOf
from noisebench.errors import LanguageError, NoisebenchError, UnknownName
from noisebench.losses import LOSSES
from noisebench.noise import NOISES, normal_noise
from noisebench.strategies import STRATEGIES
from tests.conftest import Case

LIGHT = settings(max_examples=60, deadline=None)
CONTROL = [char for code in range(32) if (char := chr(code)) != "\t"]


def value_texts(parameter):
    """Texts of values that a parameter accepts."""
    if parameter.type is bool:
        return st.sampled_from(["True", "False"])
    if isinstance(parameter.allowed, OneOf):
        choices = [repr(word) for word in parameter.allowed.words]
        return st.sampled_from(
            [*choices, "[[0.9, 0.1], [0.2, 0.8]]", "auto"] if parameter.auto else choices
        )
    if isinstance(parameter.allowed, Interval):
        low, high = (float(end) for end in parameter.allowed.text[1:-1].split(","))
        if parameter.type is int:
            return st.integers(int(max(low, -50)), int(min(high, 50))).map(str)
        numbers = (
            st.floats(max(low, -50), min(high, 50))
            .filter(lambda x: x and x in parameter.allowed)
            .map(repr)
        )
        return st.one_of(numbers, st.just("auto")) if parameter.auto else numbers
    written = {str: ["'a'", "'b c.csv'"], int: ["1", "2"]}
    return st.sampled_from(written.get(parameter.type, ["1", "2.5"]))


@st.composite
def call_texts(draw, registry, depth):
    """A call of any entry: some parameters positional, some named, some left to their defaults."""
    usable = [
        e
        for e in registry
        if depth or not any(p.is_expression and p.required for p in e.parameters)
    ]
    entry = draw(st.sampled_from(usable))
    written, positional = [], True
    for parameter in entry.parameters:
        left_out = parameter.name in ("map", "pairs_seed") or (
            parameter.is_expression and not depth
        )
        if left_out or not (parameter.required or draw(st.booleans())):
            positional = False
            continue
        value = (
            draw(loss_texts(depth - 1)) if parameter.is_expression else draw(value_texts(parameter))
        )
        positional = positional and draw(st.booleans())
        written.append(value if positional else f"{parameter.name}={value}")
    return f"{draw(st.sampled_from([entry.name, *entry.aliases]))}({', '.join(written)})"


@st.composite
def loss_texts(draw, depth=2):
    """A weighted sum of calls."""
    weights = st.sampled_from(["", "2*", "0.1*", "0.70 * ", "3*2*"])
    return " + ".join(
        draw(weights) + draw(call_texts(LOSSES, depth)) for _ in range(draw(st.integers(1, 3)))
    )


@LIGHT
@given(loss_texts())
def test_the_canonical_text_of_a_canonical_loss_is_itself(text):
    once = LOSSES.canonical(text)
    assert LOSSES.canonical(once) == once


@LIGHT
@given(call_texts(NOISES, 0))
def test_the_canonical_text_of_a_canonical_noise_is_itself(text):
    try:
        once = str(normal_noise(text))
    except LanguageError as error:  # parameters that go only without, or only with each other
        assert "has no effect" in str(error) or "needs either" in str(error)
        return
    assert str(normal_noise(once)) == once


@LIGHT
@given(call_texts(STRATEGIES, 0))
def test_the_canonical_text_of_a_canonical_strategy_is_itself(text):
    try:
        once = STRATEGIES.canonical(text)
    except LanguageError as error:  # parameters that go only with each other
        assert "needs kind=" in str(error)
        return
    assert STRATEGIES.canonical(once) == once


@LIGHT
@given(loss_texts())
def test_parsing_a_canonical_text_gives_the_normal_expression(text):
    normal = LOSSES.normal(text)
    assert LOSSES.normal(str(normal)) == normal


@LIGHT
@given(st.lists(call_texts(LOSSES, 1), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_terms_does_not_matter(calls, random):
    shuffled = random.sample(calls, len(calls))
    assert LOSSES.canonical(" + ".join(calls)) == LOSSES.canonical(" + ".join(shuffled))


@LIGHT
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_a_weighted_sum_is_distributed(weight, inner):
    assert LOSSES.canonical(f"{weight}*({inner}*ce + mae)") == LOSSES.canonical(
        f"{weight * inner}*ce + {weight}*mae"
    )


def test_two_texts_of_one_meaning_have_one_canonical_text(case):
    for one, other in [
        ("sl", "sce"),
        ("sl(beta=1)", "sce"),
        ("gce", "gce(q=0.7)"),
        ("gce(0.7)", "gce(q=0.7)"),
        ("gce(q=0.70)", "gce(q=7e-1)"),
        ("gce(q=1.0)", "gce(1)"),
        ("gce ( q = 0.7 )", "gce(q=0.7)"),
        ("ce()", "ce"),
        ("el", "el(eps=auto)"),
        ("el(eps='auto')", "el(eps=auto)"),
        ("sce(beta=2, alpha=1)", "sce(1, 2)"),
        ("mae + ce", "ce + mae"),
        ("2*ce + mae", "mae + ce*2.0"),
        ("2*(ce + 3*mae)", "2*ce + 6*mae"),
        ("(ce + mae)*2", "2*mae + 2*ce"),
        ("ce + ce", "2*ce"),
        ("1*ce", "ce"),
        ("+ce", "ce"),
        ("gce + gce(q=0.7)", "2*gce"),
        ("sl + sce", "2*sce"),
        ("lsr(mae + ce)", "lsr(ce + mae, alpha=0.1)"),
        ("lsr(loss=ce)", "lsr(ce)"),
        ("normalized(2*sl)", "normalized(sce*2)"),
        ("forward(ce, T=true)", "forward(ce, T='true')"),
        ("forward(ce, [[1, 0], (0, 1)])", "forward(ce, T=[[1.0, 0.0], [0.0, 1.0]])"),
        ("0.1*ce + 0.2*ce + 0.3*ce", "0.3*ce + 0.2*ce + 0.1*ce"),
        ("1e16*ce", "10000000000000000*ce"),
    ]:
        with case(one=one, other=other):
            assert LOSSES.canonical(one) == LOSSES.canonical(other)


def test_the_canonical_text_writes_every_value_out(case):
    for text, canonical in [
        ("ce", "ce"),
        ("gce", "gce(q=0.7)"),
        ("0.1*mae + 10.0*normalized(ce)", "10*normalized(ce) + 0.1*mae"),
        ("lsr(el, 0.10)", "lsr(el(eps=auto), alpha=0.1)"),
        ("el(eps=inf)", "el(eps=inf)"),
    ]:
        with case(text=text, canonical=canonical):
            assert LOSSES.canonical(text) == canonical


def test_a_noise_shows_a_switch_only_when_it_is_not_as_by_default():
    assert (
        str(normal_noise("symmetric(0.40, exact=True, inclusive=False)")) == "symmetric(rate=0.4)"
    )
    assert str(normal_noise("symmetric(0.4, exact=False)")) == "symmetric(rate=0.4, exact=False)"


def test_the_seed_of_a_random_map_is_written_out():
    text = "asymmetric(rate=0.3, map='superclass-pair', pairs_seed=0)"
    assert str(normal_noise("asymmetric(0.3, 'superclass-pair')")) == text


def test_a_strategy_writes_the_papers_value_out():
    assert STRATEGIES.canonical("bootstrap(kind=soft)") == "bootstrap(kind='soft', beta=0.95)"


def test_different_meanings_have_different_canonical_texts(case):
    for one, other in [
        ("gce(q=0.5)", "gce(q=0.6)"),
        ("2*ce", "ce"),
        ("lsr(ce)", "ce"),
        ("ce + mae", "ce"),
    ]:
        with case(one=one, other=other):
            assert LOSSES.canonical(one) != LOSSES.canonical(other)


def test_a_name_behind_a_prefix_is_one_call():
    assert parse("timm:resnet50.a1_in1k") == Call("timm:resnet50.a1_in1k")


def test_a_sum_is_read_into_weighted_calls():
    assert parse("10*normalized(ce) + mae") == Sum(
        ((10, Call("normalized", (Call("ce"),))), (1, Call("mae")))
    )


def test_a_value_is_a_number_a_word_or_a_list(case):
    for text, value in [
        ("0.5", 0.5),
        ("-3", -3),
        ("inf", math.inf),
        ("soft", "soft"),
        ("'a b'", "a b"),
        ("[1, 2]", (1, 2)),
        ("2*3", 6),
    ]:
        with case(text=text, value=value):
            assert parse_value(text) == value


def test_a_value_that_cannot_be_read_is_one_line(case):
    for text in ["", "1 +", "a b", "x.y", "[1", "f'{x}'", "1" * 5000, "(" * 5000, "\x00"]:
        with case(text=text[:20]):
            assert_one_line(parse_value, text, LanguageError)


MISTAKES = {
    "nothing": "",
    "blanks": "   ",
    "a number": "0.5",
    "a string": "'ce'",
    "True": "True",
    "a list": "[ce, mae]",
    "an unknown parameter": "gce(p=0.7)",
    "too many parameters": "gce(0.7, 0.8, 0.9)",
    "a parameter twice": "gce(q=0.7, q=0.7)",
    "a parameter by place and by name": "gce(0.7, q=0.7)",
    "a missing loss": "lsr()",
    "a loss where a number belongs": "lsr(ce, mae)",
    "a number where a loss belongs": "lsr(0.1)",
    "a string where a loss belongs": "lsr('ce')",
    "out of range above": "gce(q=1.5)",
    "out of range at an open end": "gce(q=0)",
    "negative": "el(eps=-0.1)",
    "minus infinity": "el(eps=-inf)",
    "NaN": "gce(q=nan)",
    "NaN by arithmetic": "el(eps=inf*0)",
    "NaN in a matrix": "forward(ce, T=[[0*inf, 1], [0, 1]])",
    "infinity in a matrix": "forward(ce, T=[[inf, 0], [0, 1]])",
    "True for a number": "gce(q=True)",
    "True in a matrix": "forward(ce, T=[[True, False], [False, True]])",
    "None for a number": "gce(q=None)",
    "a word for a number": "gce(q=big)",
    "a list for a number": "gce(q=[0.7])",
    "auto where nothing is known": "gce(q=auto)",
    "a word that T is not": "forward(ce, T='guessed')",
    "a matrix that is not square": "forward(ce, T=[[0.5, 0.5]])",
    "an empty matrix": "forward(ce, T=[])",
    "a loss minus a loss": "ce - mae",
    "a loss times a loss": "ce * mae",
    "a loss over a number": "ce / 2",
    "a loss and a number": "ce + 1",
    "weight 0": "0*ce",
    "weight 0 by merging": "ce + -1*ce",
    "an infinite weight": "inf*ce",
    "an infinite weight by multiplication": "1e308*(1e308*ce)",
    "an infinite weight by addition": "1e308*ce + 1e308*ce",
    "True as weight": "True*ce",
    "a huge weight": "1" + "0" * 400 + "*ce",
    "a huge number": "el(eps=1" + "0" * 400 + ")",
    "a number of too many digits": "9" * 6000 + "*ce",
    "a power": "ce**2",
    "an attribute": "ce.__class__",
    "a subclass walk": "().__class__.__bases__[0].__subclasses__()",
    "a call of an attribute": "os.system('true')",
    "a call of a call": "ce()()",
    "a lambda": "lambda: ce",
    "a comprehension": "[ce for x in y]",
    "an assignment": "(ce := mae)",
    "a comparison": "ce < mae",
    "a condition": "ce if mae else gce",
    "a subscript": "ce[0]",
    "an f-string": "lsr(f'{ce}')",
    "bytes": "gce(q=b'1')",
    "a complex number": "gce(q=1j)",
    "an ellipsis": "gce(q=...)",
    "two stars": "gce(**x)",
    "one star": "gce(*x)",
    "two lines": "ce\nmae",
    "a zero byte": "ce\x00",
    "an open bracket": "gce(q=0.7",
    "a bad escape": "gce(q='\\d')",
    "a huge text": "ce + " * 10_000 + "ce",
    "deep brackets": "(" * 5000 + "ce" + ")" * 5000,
    "deep lists": "[" * 5000,
    "deep calls": "lsr(" * 3000 + "ce" + ")" * 3000,
    "deep signs": "-" * 10_000 + "ce",
    "a deep sum": "+".join(["ce"] * 5000),
}


def test_a_mistake_in_a_loss_is_told_in_one_line(case):
    for name, text in MISTAKES.items():
        with case(name):
            assert_one_line(LOSSES.canonical, text, LanguageError)


def test_a_mistake_in_a_noise_is_told_in_one_line(case):
    for text in [
        "symmetric",
        "symmetric(rate=1)",
        "symmetric(rate=-0.1)",
        "symmetric(rate=0.4, exact=1)",
        "symmetric(0.2) + pairflip(0.2)",
        "2*symmetric(0.2)",
        "asymmetric(rate=0.3, map='cifar10', pairs_seed=1)",
        "asymmetric(rate=0.3, map='superclass-pair', pairs_seed=0.5)",
        "asymmetric(rate=0.3, map='superclass-pair', pairs_seed=-1)",
    ]:
        with case(text=text):
            assert_one_line(normal_noise, text, LanguageError)


def test_a_mistake_in_a_strategy_is_told_in_one_line(case):
    for text in ["bootstrap(kind='medium')", "bootstrap(beta=2)", "bootstrap(kind=1)"]:
        with case(text=text):
            assert_one_line(STRATEGIES.canonical, text, LanguageError)


def test_nesting_is_read_or_refused_but_never_a_crash(case):
    for depth in [50, 100, 150, 199]:
        with case(depth=depth):
            try:
                text = LOSSES.canonical("lsr(" * depth + "ce" + ")" * depth)
            except LanguageError:
                continue
            assert text.count("lsr") == depth


@LIGHT
@given(st.one_of(st.text(max_size=40), st.text(alphabet="ce()+*-=.,'\"[]01q \\\n", max_size=40)))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        LOSSES.canonical(text)
    except NoisebenchError as error:
        assert_plain(str(error))


def test_an_unknown_name_names_what_is_near(case):
    for registry, text, near in [
        (LOSSES, "gcee", "gce"),
        (NOISES, "symetric", "symmetric"),
        (STRATEGIES, "bootstap", "bootstrap"),
    ]:
        with case(registry=registry, text=text, near=near):
            with pytest.raises(UnknownName, match=f"did you mean.*'{near}'") as caught:
                registry.canonical(text)
            assert_plain(str(caught.value))


def test_a_name_that_is_no_entry_is_unknown(case):
    for text in ["__import__('os')", "eval('1')", "lsr(exec('1'))", "quixotic"]:
        with case(text=text):
            assert_one_line(LOSSES.canonical, text, UnknownName)


def test_an_unknown_parameter_shows_the_signature():
    with pytest.raises(LanguageError, match=r"no parameter 'p'.*gce\(q=0.7"):
        LOSSES.canonical("gce(p=1)")


def test_a_value_out_of_range_shows_the_range():
    with pytest.raises(LanguageError, match=r"q must be a number in \(0, 1\].*got 2"):
        LOSSES.canonical("gce(q=2)")


def test_parsing_runs_no_code(tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(NoisebenchError):
        LOSSES.canonical(f"__import__('pathlib').Path({str(mark)!r}).touch()")
    assert not mark.exists()


def test_a_call_is_data_even_where_python_has_such_a_function():
    assert parse("exit(1)") == Call("exit", (1,))


def test_a_huge_text_is_refused_without_repeating_it():
    with pytest.raises(LanguageError) as caught:
        parse("ce + " * 100_000 + "ce")
    assert len(str(caught.value)) < 200


def assert_plain(message):
    assert message
    assert not set(CONTROL) & set(message)
    assert len(message) < 1000


def assert_one_line(action, text, error):
    with pytest.raises(error) as caught:
        action(text)
    assert_plain(str(caught.value))


def test_a_strategy_that_inherits_from_another_module_keeps_its_types() -> None:
    from dataclasses import dataclass

    from noisebench.core.parameters import read_signature
    from noisebench.strategies.selection import Coteaching

    module = dataclass(type("Heir", (Coteaching,), {"__module__": "somewhere.else"}))
    assert read_signature(module, ()) == read_signature(Coteaching, ())
    assert read_signature(module, ())[0].auto == "share"


_HUGE = "9" * 300


def test_numbers_do_not_grow_beyond_all_bounds(case: Case) -> None:
    """A float holds none of them, and more than 4,300 digits Python does not even write."""
    for text in [
        f"{_HUGE}*{_HUGE}*ce",
        f"ce*{_HUGE}*{_HUGE}",
        f"gce(q={'*'.join([_HUGE] * 60)})",
        f"gce(q={_HUGE}*9 + {'9' * 302})",
        "1e308*10*ce",
    ]:
        with (
            case(text=text[:20]),
            pytest.raises(
                LanguageError,
                match=r"a number is too large|a "
                r"weight must be finite",
            ),
        ):
            LOSSES.canonical(text)
