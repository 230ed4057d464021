"""Files as documents: what is read, from where, and what is said of the rest."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from luthier.errors import DataError
from luthier.retrieve.documents import read_document, read_folder

DOCX = """<?xml version="1.0" encoding="UTF-8"?><w:document
xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>
<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Opening hours</w:t></w:r></w:p>
<w:p><w:r><w:t>We open at nine.</w:t></w:r></w:p></w:body></w:document>"""
TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="xml" ContentType="application/xml"/>
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Override PartName="/word/document.xml"
ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
RELATIONS = """<?xml version="1.0"?><Relationships
xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1"
Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
Target="word/document.xml"/></Relationships>"""


def write_docx(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        archive.writestr("_rels/.rels", RELATIONS)
        archive.writestr("word/document.xml", DOCX)


def write_pdf(file: Path, pages: list[str]) -> None:
    """A PDF of one line a page; an empty line gives a page without text."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        stream = f"BT /F1 12 Tf 72 700 Td ({page}) Tj ET".encode() if page else b""
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        resources = b"<< /Font << /F1 3 0 R >> >>"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources %s /Contents %d 0 R >>"
            % (resources, len(objects))
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    out, places = io.BytesIO(b"%PDF-1.4\n"), []
    out.seek(0, 2)
    for number, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, content))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start))
    file.write_bytes(out.getvalue())


def test_every_kind_of_file_becomes_a_document(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "notes.md").write_text("# All notes\n\nOne.\r\n\r\n\r\n\r\nTwo.\n", encoding="utf-8")
    (tmp_path / "plain.txt").write_text("Only words.", encoding="utf-8-sig")
    (tmp_path / "page.html").write_text(
        "<html><head><style>b {}</style><script>let x</script></head><body><h1>Fees</h1><p>No <b>fees</b>.</p>"
        "<table><tr><th>Card</th><th>Fee</th></tr><tr><td>Gold</td><td>3</td></tr></table></body></html>",
        encoding="utf-8",
    )
    write_docx(tmp_path / "hours.docx")
    write_pdf(tmp_path / "two.pdf", ["First page.", "Second page."])
    (tmp_path / "faq.csv").write_text("question,answer\nWhere?,Here.\nWhen?,Now.\n", encoding="utf-8")
    (tmp_path / "lines.jsonl").write_text('{"text": "A line."}\n{"text": "Another."}\n', encoding="utf-8")
    (tmp_path / ".hidden.md").write_text("no", encoding="utf-8")
    reading = read_folder(tmp_path)
    found = {document.name: document for document in reading.documents}
    assert reading.skipped == ()
    assert list(found) == [
        "deep/notes.md", "faq.csv:2", "faq.csv:3", "hours.docx", "lines.jsonl:1", "lines.jsonl:2", "page.html",
        "plain.txt", "two.pdf",
    ]  # fmt: skip
    assert (found["deep/notes.md"].title, found["deep/notes.md"].text) == ("All notes", "# All notes\n\nOne.\n\nTwo.")
    assert found["plain.txt"].text == "Only words."
    assert found["page.html"].title == "Fees"
    assert "No **fees**." in found["page.html"].text
    assert "| Gold | 3 |" in found["page.html"].text
    assert "let x" not in found["page.html"].text
    assert found["hours.docx"].text == "# Opening hours\n\nWe open at nine."
    assert found["faq.csv:2"].text == "question: Where?\nanswer: Here."
    assert found["lines.jsonl:2"].text == "Another."
    pdf = found["two.pdf"]
    assert pdf.text == "First page.\n\nSecond page."
    assert [pdf.page_of(at := pdf.text.index(word), at + 1) for word in ("First", "Second")] == [1, 2]
    assert [pdf.page_of(start, len(pdf.text)) for start in (0, 3)] == [1, 2]  # the one of which there is more
    assert found["page.html"].page_of(3, 4) is None


def test_headings_that_are_underlined_are_headings(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "---\ntitle: no heading\n---\n\nGuide\n=====\n\nWords.\nMore words.\n\nFees\n---\nDue in May.\n\n"
        "a | b\n---|---\n1 | 2\n\n```\n\nNo\n===\n```\n\nEnd.\n\n---\n",
        encoding="utf-8",
    )
    (tmp_path / "b.rst").write_text(
        "=====\nGuide\n=====\n\nWords.\n\nFees\n----\n\nDue.\n\nGold\n~~~~\n\nThree.\n\nHours\n-----\n\nNine.\n",
        encoding="utf-8",
    )
    first, second = read_folder(tmp_path).documents
    headings = [[line for line in own.text.splitlines() if line.startswith("#")] for own in (first, second)]
    assert headings == [["# Guide", "## Fees"], ["# Guide", "## Fees", "### Gold", "## Hours"]]
    assert (first.title, second.title) == ("Guide", "Guide")
    assert "title: no heading" in first.text
    assert "No\n===" in first.text


def test_what_cannot_be_read_is_skipped_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("Text.", encoding="utf-8")
    (tmp_path / "empty.md").write_text(" \n", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing more")
    (tmp_path / "broken.docx").write_bytes(b"PK\x03\x04 no archive")
    write_pdf(tmp_path / "scan.pdf", ["Words.", ""])
    (tmp_path / "odd.csv").write_text('a,b\n"never closed,1\n', encoding="utf-8")
    outside = tmp_path.parent / "outside.md"
    outside.write_text("Not ours.", encoding="utf-8")
    (tmp_path / "link.md").symlink_to(outside)
    (tmp_path / "old.txt").write_bytes("Gebühr".encode("latin-1"))
    reading = read_folder(tmp_path)
    assert [document.name for document in reading.documents] == ["good.md", "scan.pdf"]
    reasons = {own.name: own.reason for own in reading.skipped}
    assert set(reasons) == {
        "empty.md", "picture.png", "broken.pdf", "broken.docx", "odd.csv", "link.md", "scan.pdf, page 2", "old.txt",
    }  # fmt: skip
    assert reasons["empty.md"] == "the file is empty."
    assert reasons["picture.png"].startswith("no reader for '.png' files")
    assert reasons["link.md"] == "a link that leads out of the folder"
    assert reasons["scan.pdf, page 2"] == "no text; a scan?"
    assert reasons["old.txt"].endswith("Save the file as UTF-8.")


def test_a_file_that_is_gone_again_or_may_not_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.md: it cannot be read \(No such file"):
        read_document(tmp_path / "gone.md", "gone.md")


@pytest.mark.parametrize(("name", "said"), [("gone", "does not exist"), ("file.md", "is a file")])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file.md").write_text("Text.", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_folder(tmp_path / name)


def test_a_version_is_told_from_another_and_from_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    digests = []
    for text in ("# One\n\nText.", "# One\n\nText.", "# One\n\nText!"):
        file.write_text(text, encoding="utf-8")
        (document,) = read_document(file, "a.md").documents
        digests.append(document.digest)
    assert digests[0] == digests[1] != digests[2]


def test_real_pdf_and_html_are_read_with_pages_and_headings(data_folder: Path) -> None:
    pdf = read_document(data_folder / "ntsb_pdf" / "20071229X02007.pdf", "report.pdf").documents[0]
    assert len(pdf.pages) == 4
    assert pdf.page_of(*[pdf.text.index("Pilot Information")] * 2) == 2
    book = read_document(data_folder / "alice_html" / "11-h.htm", "alice.html").documents[0]
    assert book.title == "ALICE’S ADVENTURES IN WONDERLAND"
    assert "## CHAPTER VII. A Mad Tea-Party" in book.text
