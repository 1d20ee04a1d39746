import numpy as np
import pytest

from pdamlib.data.outlines import draw_outlines, read_outlines
from pdamlib.data.readers import KUMAR_OFFSET, Kumar
from pdamlib.errors import UserError


def square(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)


def aperio(*outlines, prolog=""):
    regions = "".join(
        "<Region><Vertices>" + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in o) + "</Vertices></Region>"
        for o in outlines
    )
    return f"{prolog}<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>"


def test_an_outline_holds_the_pixels_whose_centres_it_surrounds_and_moves_by_the_offset():
    drawn = draw_outlines([square(1.5, 2.5, 3.5, 3.5)], (4, 5), offset=-1.0)
    assert drawn.dtype == np.int32
    np.testing.assert_array_equal(drawn, [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])


def test_where_outlines_overlap_the_earlier_keeps_the_pixels():
    drawn = draw_outlines([square(-0.5, -0.5, 1.5, 0.5), square(0.5, -0.5, 3.5, 0.5)], (1, 4), offset=0.0)
    np.testing.assert_array_equal(drawn, [[1, 1, 2, 2]])


def test_outlines_without_pixels_leave_no_gap_in_the_ids():
    line, outside, nucleus = np.array([[0.0, 0.0], [3.0, 0.0]]), square(9, 9, 12, 12), square(-0.5, -0.5, 0.5, 0.5)
    covered = nucleus
    drawn = draw_outlines([line, outside, nucleus, covered, square(1.5, -0.5, 2.5, 0.5)], (1, 4), offset=0.0)
    np.testing.assert_array_equal(drawn, [[1, 0, 2, 0]])


def test_an_outline_across_the_border_is_cut_off_there():
    np.testing.assert_array_equal(draw_outlines([square(-3, -3, 0.5, 9)], (2, 3), 0.0), [[1, 0, 0], [1, 0, 0]])


def test_outlines_are_read_in_the_order_of_the_file(tmp_path):
    (tmp_path / "a.xml").write_text(aperio([(1, 2.5), (3, 4)], [(5, 6)], []))
    first, second, empty = read_outlines(tmp_path / "a.xml")
    np.testing.assert_array_equal(first, [[1, 2.5], [3, 4]])
    np.testing.assert_array_equal(second, [[5, 6]])
    assert empty.shape == (0, 2)


@pytest.mark.parametrize(
    "text",
    [
        aperio(prolog='<!DOCTYPE a [<!ENTITY e "boom">]>'),
        aperio(prolog='<!DOCTYPE a SYSTEM "file:///etc/hostname">'),
        '<!DOCTYPE a [<!ENTITY e "x"><!ENTITY f "&e;&e;">]><Annotations>&f;</Annotations>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_doctype_is_refused_in_any_encoding(tmp_path, text, encoding):
    (tmp_path / "a.xml").write_text(text, encoding=encoding)
    with pytest.raises(UserError, match=r"a\.xml.*DOCTYPE"):
        read_outlines(tmp_path / "a.xml")


@pytest.mark.parametrize(
    "text",
    ["", "<Annotations>", aperio([("nan", 1)]), aperio([("left", 1)]), "<A><Region><Vertex X='1'/></Region></A>"],
)
def test_an_unsound_annotation_is_named_with_its_cure(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=r"a\.xml: not a sound Aperio annotation .*unpack") as caught:
        read_outlines(tmp_path / "a.xml")
    assert "\n" not in str(caught.value)


def test_a_missing_annotation_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.xml: missing"):
        read_outlines(tmp_path / "a.xml")


@pytest.mark.parametrize("name", ["TCGA-21-5784-01Z-00-DX1", "TCGA-A7-A13E-01Z-00-DX1", "TCGA-NH-A8F7-01A-01-TS1"])
def test_the_official_outlines_agree_with_the_published_label_maps(data_root, name):
    root = data_root / "kumar"
    published = Kumar(root).label_map(name)
    drawn = draw_outlines(read_outlines(root / "annotations" / f"{name}.xml"), published.shape, KUMAR_OFFSET)
    ours, theirs = drawn > 0, published > 0
    assert drawn.max() == published.max()
    assert (ours & theirs).sum() / (ours | theirs).sum() >= 0.98
    # 98% of the pixels that both call nucleus must be of the same nucleus, which a wrong order of drawing would spoil
    pairs, counts = np.unique(np.stack([drawn[ours & theirs], published[ours & theirs]]), axis=1, return_counts=True)
    best = np.zeros(published.max() + 1, int)
    np.maximum.at(best, pairs[1], counts)
    assert best.sum() / counts.sum() >= 0.98
