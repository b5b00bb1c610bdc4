# SPDX-License-Identifier: Apache-2.0

from blemish_core.report.markup import Markup, joined, picture, table, tag


def test_text_cannot_become_markup() -> None:
    hostile = "<script>alert('x')</script>&\""
    assert tag("p", hostile).html == ("<p>&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;</p>")
    assert tag("p", title='" onclick="x').html == '<p title="&quot; onclick=&quot;x"></p>'
    assert "<script" not in table(("<script>",), [("<script>",)], "numbers").html


def test_markup_stays_and_none_is_nothing() -> None:
    assert joined(tag("b", "a"), None, " & ", Markup("<i>c</i>")).html == "<b>a</b> &amp; <i>c</i>"


def test_images_are_embedded() -> None:
    assert picture(b"abc", "png", "a chart", class_="wide").html == (
        '<img src="data:image/png;base64,YWJj" alt="a chart" class="wide">'
    )
