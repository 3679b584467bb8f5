"""`savior report` of a launched run, as a browser reads it: Python's own parsers take the page apart."""

import html.parser
import subprocess
import unittest
import xml.etree.ElementTree as ElementTree

import runs
from runs import Launch

SVG = "{http://www.w3.org/2000/svg}"
SWITCH, STEPS = 55, 130
COMMON = (
    f"train.max_steps={STEPS}", "train.epochs=3", "codebook.learn_until=2023-11-20", "cluster.servers=2",
    "cluster.workers=2", "refresh.at_step=45", f"refresh.switch_after_steps={SWITCH - 45}",
    "eval.progressive=true",
    # Small worlds: what gates refuse is tested elsewhere.
    "refresh.min_preserved_r2=-100", "refresh.max_churn=1", "refresh.max_dead_share=1",
    "refresh.max_auc_loss=100", "refresh.cpu_share=1", "refresh.probation_steps=40", "--np", "4")


class Page(html.parser.HTMLParser):
    """Titles of the page, and whatever it would load."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.titles, self.loads, self.tags = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        self.loads += [value for name, value in attributes
                       if name in ("src", "href", "data", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> ends {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.titles.append(data)


def report(run, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run([runs.PROGRAM, "report", run, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)


class ReportTest(runs.WorldTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        launch = Launch(cls.config, cls.path / "run", *COMMON)
        assert launch.wait() == 0, launch.text()
        done = report(launch.run)
        assert done.returncode == 0, done.stdout
        cls.run_folder = launch.run
        cls.text = (launch.run / "report.html").read_text()

    def test_a_browser_can_read_it_alone(self):
        page = Page(self.text)
        self.assertEqual(page.open, [])
        self.assertEqual(page.loads, [])
        self.assertNotIn("script", page.tags)
        self.assertEqual(page.titles[0], "Run run")
        for title in ("Result", "Losses and ranking", "Speed", "Tables", "Codebook", "Around each switch",
                      f"Version 1: active, switched after step {SWITCH}", "Commits"):
            self.assertIn(title, page.titles)

    def test_its_pictures_are_well_formed_and_marked(self):
        tree = ElementTree.fromstring(self.text.replace("<!DOCTYPE html>", ""))
        plots = tree.findall(f".//{SVG}svg")
        self.assertGreater(len(plots), 8)
        for plot in plots:
            _, _, width, height = map(float, plot.get("viewBox").split())
            marks = plot.findall(f"{SVG}g[@data-step]")
            self.assertEqual([(m.get("class"), m.get("data-step")) for m in marks],
                             [("mark mark-switch", str(SWITCH))])
            # Between the first step and the last one, where it belongs.
            x = float(marks[0].find(f"{SVG}line").get("x1"))
            left, right = 58, width - 14
            self.assertAlmostEqual(x, left + (SWITCH - 1) / (STEPS - 1) * (right - left), delta=0.1)
            for line in plot.findall(f"{SVG}polyline") + plot.findall(f"{SVG}polygon"):
                for point in line.get("points").split():
                    x, y = map(float, point.split(","))
                    self.assertTrue(0 <= x <= width and 0 <= y <= height, point)

    def test_what_is_no_run_is_refused(self):
        done = report(self.path / "nowhere")
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn("no run there", done.stdout)
        done = report(self.run_folder, "--out", self.path / "no" / "folder.html")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("folder.html", done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
