import pytest

from fgjax.data.labels import read_labels
from fgjax.data.sets.cub import CubSource
from fgjax.data.sets.folder import FolderSource
from fgjax.data.types import DataError

CLASSES = ("cat", "dog", "grey_wolf")


def write(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return path


# CSV.


def test_csv(tmp_path):
    path = write(tmp_path, "class_name,model_index\ndog,4\ncat,0\ngrey_wolf,\n")
    labels = read_labels(path, CLASSES, 5)
    assert labels.index == (0, 4, None)
    assert labels.unmatched == ("grey_wolf",)
    assert labels.output_names == ("cat", "output 1", "output 2", "output 3", "dog")


def test_csv_as_spreadsheets_write_it(tmp_path):
    text = '\ufeffclass_name,model_index\r\n"cat, the", 1 \r\n\r\ndog,0\r\n'
    labels = read_labels(write(tmp_path, text), ("cat, the", "dog"), 2)
    assert labels.index == (1, 0)


def test_csv_need_not_list_every_class(tmp_path):
    labels = read_labels(write(tmp_path, "class_name,model_index\ndog,1\n"), CLASSES, 2)
    assert labels.index == (None, 1, None) and labels.unmatched == ("cat", "grey_wolf")


def test_two_classes_may_share_an_output(tmp_path):
    path = write(tmp_path, "class_name,model_index\ndog,1\ngrey_wolf,1\n")
    labels = read_labels(path, CLASSES, 2)
    assert labels.index == (None, 1, 1) and labels.output_names[1] == "dog / grey_wolf"


def test_without_classes_a_csv_names_outputs(tmp_path):
    labels = read_labels(write(tmp_path, "class_name,model_index\nlion,1\n"), (), 3)
    assert labels.index == () and labels.unmatched == ()
    assert labels.output_names == ("output 0", "lion", "output 2")


@pytest.mark.parametrize(
    "rows, message",
    [
        ("cat,0\ndog,5", r"line 3: model_index 5 is out of range; .* are 0 to 4"),
        ("cat,-1", r"line 2: model_index -1 is out of range"),
        ("cat,0\ndog,1\ncat,2", r"line 4: class 'cat' is already given in line 2"),
        ("cat,0\ngray_wolf,1", r"line 3: .* no class 'gray_wolf'; did you mean 'grey_wolf'\?"),
        ("GREY WOLF,1", r"line 2: .* did you mean 'grey_wolf'\?"),
        ("xyzzy,1", r"line 2: the data set has no class 'xyzzy' \(it has cat, dog, grey_wolf\)"),
        ("cat,one", r"line 2: model_index must be a whole number or empty, not 'one'"),
        ("cat,1.0", r"line 2: model_index must be a whole number"),
        ("cat", r"line 2: expected class_name,model_index, found 'cat'"),
        ("cat,1,2", r"line 2: expected class_name,model_index"),
        (",1", r"line 2: expected class_name,model_index"),
        ("cat,\ndog,", r"the model knows none of the 3 classes \(such as 'cat'\)"),
        ("", r"the model knows none of the 3 classes"),
    ],
)
def test_bad_csv(tmp_path, rows, message):
    path = write(tmp_path, "class_name,model_index\n" + rows)
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path, CLASSES, 5)
    assert str(path) in str(caught.value)


def test_csv_without_header(tmp_path):
    with pytest.raises(DataError, match=r"line 1: .* starts with class_name,model_index"):
        read_labels(write(tmp_path, "cat,0\ndog,1\n"), CLASSES, 5)


# Plain text.

TEXT = """Agelaius phoeniceus (Red-winged Blackbird)
Euphagus cyanocephalus (Brewer's Blackbird)
tench, Tinca tinca
crane
crane
"""


@pytest.mark.parametrize(
    "name, output",
    [
        ("010.Red_winged_Blackbird", 0),
        ("agelaius-PHOENICEUS", 0),
        ("Agelaius phoeniceus (Red-winged Blackbird)", 0),
        ("009.Brewer_Blackbird", 1),
        ("Brewer’s Blackbird", 1),
        ("Tinca_tinca", 2),
        ("tench", 2),
        ("Tench, Tinca tinca", 2),
    ],
)
def test_names_match_in_every_spelling(tmp_path, name, output):
    labels = read_labels(write(tmp_path, TEXT, "labels.txt"), (name, "unheard of"), 5)
    assert labels.index == (output, None)
    assert labels.unmatched == ("unheard of",)
    assert labels.output_names == tuple(TEXT.splitlines())


def test_parts_of_words_do_not_match(tmp_path):
    path = write(tmp_path, TEXT, "labels.txt")
    labels = read_labels(path, ("tench", "Blackbird", "ten", "Agelaius"), 5)
    assert labels.index == (2, None, None, None)


def test_a_subspecies_is_not_the_species(tmp_path):
    text = "Lycaena phlaeas hypophlaeas (Copper)\nLycaena phlaeas (Small Copper)\n"
    path = write(tmp_path, text, "labels.txt")
    assert read_labels(path, ("Lycaena_phlaeas",), 2).index == (1,)


def test_an_ambiguous_name_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'Crane' fits several lines: 4 \(crane\), 5 \(crane\)"):
        read_labels(write(tmp_path, TEXT, "labels.txt"), ("Crane",), 5)


@pytest.mark.parametrize("outputs", [4, 6])
def test_wrong_number_of_lines(tmp_path, outputs):
    path = write(tmp_path, TEXT, "labels.txt")
    with pytest.raises(DataError, match=rf"labels.txt: has 5 lines but .* {outputs} outputs"):
        read_labels(path, ("tench",), outputs)


def test_blank_lines(tmp_path):
    labels = read_labels(write(tmp_path, "cat\r\n\r\ndog\r\n\r\n\r\n", "l.txt"), ("dog",), 3)
    assert labels.output_names == ("cat", "output 1", "dog") and labels.index == (2,)
    # The last outputs may be nameless.
    assert read_labels(write(tmp_path, "cat\n\n\n", "m.txt"), (), 3).output_names[2] == "output 2"


def test_no_class_matches(tmp_path):
    path = write(tmp_path, TEXT, "labels.txt")
    with pytest.raises(DataError, match="knows none of the 3 classes"):
        read_labels(path, CLASSES, 5)
    assert read_labels(path, (), 5).index == ()


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "nothing.csv", CLASSES, 5)
    with pytest.raises(DataError, match="is empty"):
        read_labels(write(tmp_path, " \n"), CLASSES, 5)
    with pytest.raises(DataError, match=r"is not UTF-8 text \(byte 2\)"):
        read_labels(write(tmp_path, b"ca\xff", "l.txt"), CLASSES, 5)


# The real ones.


@pytest.mark.shared
def test_real_birds(shared):
    source = CubSource(shared / "data/birds")
    by_csv = read_labels(shared / "data/birds/model_classes.csv", source.classes, 965)
    by_name = read_labels(shared / "weights/mobilenetv2_inat_birds.labels.txt", source.classes, 965)
    assert by_csv.unmatched == ()
    # "Cardinal" is "Northern Cardinal" to the model; every other name agrees.
    assert by_name.unmatched == ("017.Cardinal",)
    differ = [a for a, b in zip(by_csv.index, by_name.index, strict=True) if a != b]
    assert differ == [by_name.output_names.index("Cardinalis cardinalis (Northern Cardinal)")]


@pytest.mark.shared
def test_real_butterflies(shared):
    source = FolderSource(shared / "data/butterflies")
    by_csv = read_labels(shared / "data/butterflies/model_classes.csv", source.classes, 1022)
    assert by_csv.unmatched == ("Papilio_cresphontes",)
    by_name = read_labels(
        shared / "weights/mobilenetv2_inat_insects.labels.txt", source.classes, 1022
    )
    assert by_name.output_names[by_name.index[0]] == "Danaus plexippus (Monarch)"
    assert set(by_name.unmatched) == {"Heliconius_charitonius", "Papilio_cresphontes"}
