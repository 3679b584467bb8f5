// `savior report` of runs that were trained here, and of what is left of runs that went wrong.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include "launcher/inspect.h"
#include "launcher/refresh_command.h"
#include "launcher/report_command.h"
#include "launcher/report_page.h"
#include "launcher/report_plots.h"
#include "launcher/run_folder.h"
#include "tests/common/temp_folder.h"
#include "tests/common/well_formed.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kSwitch = 26, kAgain = 40;

// A run that switches, is rolled back, and switches again; a line of metrics per step.
class ReportOfARun : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path(), DriftingWorld());
    Config config = Small("run");
    config.refresh.at_step = kSwitch - 6;
    config.train.max_steps = kSwitch + 8;
    RunToTheEnd(config);
    std::ostringstream out;
    ASSERT_TRUE(RefreshCodebook({config.run.dir, {}, /*rollback=*/true, false}, out).ok());
    config.refresh.at_step = 0;
    config.train.max_steps = kAgain;
    RunToTheEnd(config, /*resume=*/true);
    const absl::Status refused =
        RefreshCodebook({config.run.dir, {"refresh.min_preserved_r2=1"}, false, false}, out);
    ASSERT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    ASSERT_TRUE(
        RefreshCodebook({config.run.dir, {"refresh.min_preserved_r2=-10"}, false, false}, out)
            .ok());
    config.train.max_steps = 0;
    RunToTheEnd(config, /*resume=*/true);
  }
  static void TearDownTestSuite() { delete folder_; }

  static Config Small(const std::string& name) {
    Config config = SmallRun(folder_->path(), name);
    config.codebook.learn_until = "2023-11-20";
    config.train.metrics_every_s = 1e-9;
    config.commit.every_steps = 8;
    config.eval.progressive = true;
    OpenGates(&config);
    config.refresh.cpu_share = 1;
    config.refresh.switch_after_steps = 6;
    config.refresh.probation_steps = 10'000;
    return config;
  }
  static fs::path Run() { return Small("run").run.dir; }

  // The page; fails the test if there is none.
  static std::string PageOf(const fs::path& run) {
    std::ostringstream out;
    const fs::path file = *folder_ / "page.html";
    const absl::Status written = WriteReport({run.string(), file.string()}, out);
    EXPECT_TRUE(written.ok()) << written;
    std::string page = ReadFile(file).value_or("");
    EXPECT_EQ(WrongInMarkup(page), "");
    return page;
  }

  static TempFolder* folder_;
};
TempFolder* ReportOfARun::folder_ = nullptr;

size_t Count(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++count;
  return count;
}

TEST_F(ReportOfARun, IsOneFileThatNeedsNothingElse) {
  std::ostringstream out;
  ASSERT_TRUE(WriteReport({Run().string(), ""}, out).ok());
  const std::string page = ReadFile(Run() / "report.html").value_or("");
  EXPECT_THAT(out.str(), HasSubstr((Run() / "report.html").string()));
  EXPECT_EQ(WrongInMarkup(page), "");
  std::string links = page;  // the namespace of SVG is a name, no address
  links = std::regex_replace(links, std::regex("xmlns=\"http://www.w3.org/2000/svg\""), "");
  EXPECT_THAT(links,
              AllOf(Not(HasSubstr("http")), Not(HasSubstr("<script")), Not(HasSubstr("src=")),
                    Not(HasSubstr("url(")), Not(HasSubstr("@import"))));
  EXPECT_LT(page.size(), size_t{2} << 20);
}

TEST_F(ReportOfARun, HasWhatTheRunWasAndItsResult) {
  const std::string page = PageOf(Run());
  EXPECT_THAT(page, AllOf(HasSubstr("<h1>Run run</h1>"), HasSubstr("finished after "),
                          HasSubstr("<dt>arm</dt><dd>savior</dd>"), HasSubstr("2023-11-26"),
                          HasSubstr("age_days &lt;= 7")));
  // New items first.
  const size_t fresh = page.find("<td>new</td>"), all = page.find("<td>all</td>");
  ASSERT_NE(fresh, std::string::npos);
  EXPECT_LT(fresh, all);
  const auto result = nlohmann::json::parse(*ReadFile(Run() / "result.json"));
  const double auc = result.at("eval").at("ctr").at("new").at("auc");
  EXPECT_THAT(page, HasSubstr(fmt::format(">{:.2f}<", 100 * auc)));
}

TEST_F(ReportOfARun, MarksEverySwitchInEveryPlot) {
  const std::string page = PageOf(Run());
  const size_t plots = Count(page, "<svg ");
  EXPECT_GT(plots, 10u);
  const auto mark = [&](const char* kind, int64_t step) {
    return Count(page, fmt::format("<g class=\"mark mark-{}\" data-step=\"{}\">", kind, step));
  };
  EXPECT_EQ(mark("switch", kSwitch), plots);
  EXPECT_EQ(mark("rollback", kSwitch), plots);
  EXPECT_EQ(mark("abort", kAgain), plots);
  EXPECT_EQ(mark("switch", kAgain), plots);
  for (const char* title :
       {">Loss<", ">Click AUC, before a batch is learnt from<", ">Rows by table<",
        ">Impressions trained on<", "refresh.max_rq_mse_ratio = 1.15",
        ">Training stood still for commits and switches<"}) {
    EXPECT_THAT(page, HasSubstr(title));
  }
}

TEST_F(ReportOfARun, SaysWhatWasMeasuredAroundEachSwitch) {
  const auto report = ReadRunReport(Run());
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->metrics.windows.size(), 2u);
  const SwitchWindow& first = report->metrics.windows[0];
  EXPECT_EQ(first.step, kSwitch);
  EXPECT_EQ(first.lines_before, static_cast<size_t>(kSwitch));
  EXPECT_EQ(first.lines_after, 8u) << "of the version that was rolled back, not of what came then";
  std::vector<std::string> names;
  for (const WindowFigure& figure : first.figures) {
    names.push_back(figure.name);
    EXPECT_TRUE(figure.before && figure.after) << figure.name;
  }
  EXPECT_THAT(names, ::testing::IsSupersetOf({"loss_ctr", "progressive.all.auc",
                                              "progressive.new.auc", "progressive.new.logloss"}));
  const std::string page = PageOf(Run());
  const std::string around = page.substr(page.find("Around each switch"));
  for (const char* what :
       {"Version 1: rolled back, switched after step 26",
        "Version 1: probation, switched after step 40", "preserved R2", "quantisation error",
        "churn %", "utilisation %", "dead codes", "ROLLED_BACK", "bucket new",
        "Refreshes that came to nothing", "Version 1: aborted", "refresh.min_preserved_r2"}) {
    EXPECT_THAT(around, HasSubstr(what));
  }
}

TEST_F(ReportOfARun, InspectCodebookShowsAllVersions) {
  std::ostringstream out;
  InspectArguments arguments;
  arguments.what = "codebook";
  arguments.path = Run().string();
  arguments.top = 1;
  ASSERT_TRUE(Inspect(arguments, out).ok());
  std::vector<std::string> rows;
  std::istringstream lines(out.str());
  for (std::string line; std::getline(lines, line);) {
    if (std::regex_search(line, std::regex("^ +[0-9]+ +([0-9]+|-)  "))) rows.push_back(line);
  }
  ASSERT_EQ(rows.size(), 4u) << out.str();
  EXPECT_THAT(rows[0], AllOf(HasSubstr("kept"), HasSubstr("the run's first")));
  EXPECT_THAT(rows[1], AllOf(HasSubstr(" 26 "), HasSubstr("rolled back"), HasSubstr("100.0%"),
                             HasSubstr("refresh.at_step")));
  EXPECT_THAT(rows[2], AllOf(HasSubstr("aborted"), HasSubstr("by hand; preserved R2")));
  EXPECT_THAT(rows[3], AllOf(HasSubstr(" 40 "), HasSubstr("probation"), HasSubstr("by hand")));
  EXPECT_THAT(out.str(), HasSubstr("utilisation 100.0%"));
}

TEST_F(ReportOfARun, WhileSomebodyTrainsItSaysSo) {
  EXPECT_THAT(PageOf(Run()), Not(HasSubstr("running; ")));
  const auto lock = FileLock::Take(Run() / "lock");
  ASSERT_TRUE(lock.ok());
  EXPECT_THAT(PageOf(Run()), HasSubstr("running; committed up to step "));
}

TEST_F(ReportOfARun, DamageIsAnErrorThatNamesTheFile) {
  const fs::path run = *folder_ / "damaged";
  const auto expect_named = [&](const char* file, const char* text, const char* named) {
    fs::remove_all(run);
    fs::copy(Run(), run, fs::copy_options::recursive);
    fs::remove(run / "report.html");
    std::ofstream(run / file) << text;
    std::ostringstream out;
    const absl::Status status = WriteReport({run.string(), ""}, out);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr((run / file).string()), HasSubstr(named)));
    EXPECT_FALSE(fs::exists(run / "report.html")) << "nothing half done";
  };
  expect_named("metrics.jsonl", "{\"step\":1}\n{\"st\n{\"step\":3}\n", "line 2");
  expect_named("refresh.jsonl", "{}\n{}\nx\n", "line 3");
  expect_named("result.json", "{", "damaged");
}

TEST_F(ReportOfARun, ADamagedCommitIsNamedInTheTable) {
  const fs::path run = *folder_ / "damaged-commit";
  fs::copy(Run(), run, fs::copy_options::recursive);
  std::ofstream(ListCommits(run / "commits").front() / "manifest.json") << "{}";
  EXPECT_THAT(PageOf(run), AllOf(HasSubstr("colspan"), HasSubstr("manifest.json")));
}

// A run's folder with nothing but a configuration and these files.
class ReportOfAFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    Config config;
    config.run.dir = folder_.path().string();
    config.model.arm = "savior";
    std::ofstream(folder_ / "resolved.toml") << ToToml(config);
  }
  void Write(const char* file, const std::string& text) const {
    std::ofstream(folder_ / file, std::ios::binary) << text;
  }
  std::string Page() const {
    const auto report = ReadRunReport(folder_.path());
    EXPECT_TRUE(report.ok()) << report.status();
    if (!report.ok()) return "";
    std::string page = ReportPage(*report);
    EXPECT_EQ(WrongInMarkup(page), "");
    return page;
  }
  const TempFolder folder_;
};

TEST_F(ReportOfAFolder, NoRunIsNotFound) {
  fs::remove(folder_ / "resolved.toml");
  std::ostringstream out;
  for (const fs::path& run : {folder_.path(), folder_ / "nowhere"}) {
    const absl::Status status = WriteReport({run.string(), ""}, out);
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("no run there"));
  }
}

TEST_F(ReportOfAFolder, ThatIsEmptySaysSo) {
  EXPECT_THAT(Page(), AllOf(HasSubstr("There is no result yet"), HasSubstr("There are no metrics"),
                            HasSubstr("never refreshed"), HasSubstr("ended before its first"),
                            Not(HasSubstr("<svg"))));
  Write("metrics.jsonl", "");
  EXPECT_THAT(Page(), HasSubstr("There are no metrics"));
  Write("metrics.jsonl", "{\"step\":1,\"loss");
  EXPECT_THAT(Page(), HasSubstr("There are no metrics"));
}

TEST_F(ReportOfAFolder, OfOneStepHasPlots) {
  Write("metrics.jsonl", "{\"step\":1,\"loss_ctr\":0.5,\"samples_per_s\":10}\n");
  EXPECT_THAT(Page(), AllOf(HasSubstr("<svg"), HasSubstr("1 to 1 in 1 lines")));
}

TEST_F(ReportOfAFolder, ASwitchWithoutMetricsIsToldAllTheSame) {
  Write("refresh.jsonl", "{\"step\":5,\"state\":\"ACTIVE\",\"version\":1}\n");
  EXPECT_THAT(Page(), HasSubstr("Version 1: probation, switched after step 5"));
}

TEST_F(ReportOfAFolder, TextIsEscaped) {
  Config config;
  config.data.raw = "<script>alert(1)</script>&\"'";
  config.eval.buckets = {{"all", ""}, {"new", "age_days < 7"}};
  config.model.arm = "savior";
  std::ofstream(folder_ / "resolved.toml") << ToToml(config);
  Write("result.json",
        R"({"steps": 1, "eval": {"ctr": {"<b>": {"auc": null, "n": "x"}, "new": {"auc": 0.5}}}})");
  Write("metrics.jsonl",
        "{\"step\":1,\"tables\":{\"<i>t</"
        "i>\":{\"rows\":5}},\"progressive\":{\"<u>\":{\"auc\":1}}}\n");
  Write("refresh.jsonl",
        "{\"step\":1,\"state\":\"BUILDING\",\"version\":1,\"why\":\"<drift> & more\"}\n"
        "{\"step\":1,\"state\":\"ABORTED\",\"version\":1,\"why\":\"<gate>\"}\n"
        "{\"state\":\"REFUSED\",\"version\":0,\"why\":\"<why>\"}\n");
  const std::string page = Page();
  EXPECT_THAT(page,
              AllOf(Not(HasSubstr("<script")), Not(HasSubstr("<b>")), Not(HasSubstr("<i>t")),
                    Not(HasSubstr("<u>")), Not(HasSubstr("<drift")), Not(HasSubstr("<gate")),
                    HasSubstr("&lt;script&gt;alert(1)"), HasSubstr("&lt;drift&gt; &amp; more"),
                    HasSubstr("&lt;gate&gt;"), HasSubstr("&lt;why&gt;"), HasSubstr("&lt;b&gt;")));
}

TEST_F(ReportOfAFolder, OfALongRunIsSmall) {
  constexpr int64_t kLines = 100'000;
  std::string text;
  for (int64_t step = 1; step <= kLines; ++step) {
    text += fmt::format(
        R"({{"step":{0},"samples":{0},"loss_ctr":{1:.9f},"loss_ctcvr":{2:.9f},"samples_per_s":{3},)",
        step, 0.5 + 0.1 / static_cast<double>(step % 977 + 1), 0.3, 1000 + step % 331);
    for (const char* table : {"user", "item", "feature", "align", "content", "content_vector"}) {
      text += fmt::format(R"({}"{}":{{"rows":{},"hot_bytes":{}}})",
                          std::string_view(table) == "user" ? "\"tables\":{" : ",", table, step,
                          100 * step);
    }
    text += fmt::format("}},\"codebook\":{{\"version\":{}}}}}\n", step > kLines / 2 ? 1 : 0);
  }
  Write("metrics.jsonl", text);
  Write("refresh.jsonl",
        fmt::format("{{\"step\":{},\"state\":\"ACTIVE\",\"version\":1}}\n", kLines / 2));
  const auto start = std::chrono::steady_clock::now();
  const std::string page = Page();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_LT(page.size(), size_t{2} << 20);
  EXPECT_LT(took.count(), 60) << "a million lines would take minutes";
  const auto report = ReadRunReport(folder_.path());
  EXPECT_LE(report->metrics.series.at("loss_ctr").size(), 500u);
  EXPECT_EQ(report->metrics.windows[0].lines_before, 5000u);
}

}  // namespace
}  // namespace savior
