// items.parquet -> items.arrow, by ascending item_id. Titles go through a scratch file: they are
// the one thing per item that is not a few bytes.
#include <absl/strings/str_cat.h>
#include <arrow/array.h>
#include <arrow/util/utf8.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <utility>

#include "common/files.h"
#include "common/progress.h"
#include "worker/data/arrow_files.h"
#include "worker/data/prepare_steps.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// Strings in a file: string i is [ends[i - 1], ends[i]).
class StringFile {
 public:
  explicit StringFile(fs::path path) : path_(std::move(path)), out_(path_, std::ios::binary) {}

  void Append(std::string_view text) {
    out_.write(text.data(), static_cast<std::streamsize>(text.size()));
    ends_.push_back(ends_.back() + static_cast<int64_t>(text.size()));
  }

  // Ends the appending, and maps what was written.
  absl::Status Close() {
    out_.close();
    if (out_.fail()) {
      return absl::ResourceExhaustedError(path_.string() + ": could not be written (disk full?)");
    }
    SAVIOR_ASSIGN_OR_RETURN(bytes_, MapBuffer(path_));
    return absl::OkStatus();
  }

  std::string_view At(size_t i) const {
    return {reinterpret_cast<const char*>(bytes_->data()) + ends_[i],
            static_cast<size_t>(ends_[i + 1] - ends_[i])};
  }

  // The array maps the file: keep it until the array is gone.
  std::shared_ptr<arrow::Array> ToArray() {
    const auto rows = static_cast<int64_t>(ends_.size()) - 1;
    return std::make_shared<arrow::LargeStringArray>(
        rows, arrow::Buffer::FromVector(std::exchange(ends_, {0})), bytes_);
  }

 private:
  const fs::path path_;
  std::ofstream out_;
  std::vector<int64_t> ends_ = {0};
  std::shared_ptr<arrow::Buffer> bytes_;
};

// Raw columns of items, in raw order.
struct RawItems {
  std::vector<int64_t> ids;
  std::vector<int64_t> listed_at;
  std::vector<std::string> feature_names;
  std::vector<VocabularyBuilder> vocabularies;
  std::vector<std::vector<int32_t>> features;  // provisional codes
  std::vector<std::string> numeric_names;
  std::vector<std::vector<float>> numerics;
};

absl::Status AppendTitles(const RawTable& table, const RawSlice& slice, const RawText& text,
                          StringFile* titles) {
  for (size_t row = 0; row < text.codes.size(); ++row) {
    const std::string_view title = text.codes[row] < 0
                                       ? std::string_view()
                                       : text.values[static_cast<size_t>(text.codes[row])];
    if (!arrow::util::ValidateUTF8(title)) {
      return table.Refuse(slice.first_row + static_cast<int64_t>(row), "title", "is not UTF-8");
    }
    titles->Append(title);
  }
  return absl::OkStatus();
}

absl::Status AppendSlice(const RawTable& table, const RawSlice& slice, RawItems* items) {
  const std::vector<int64_t>& listed = slice.columns[1].ints;
  for (size_t row = 0; row < listed.size(); ++row) {
    if (const char* why = TimeProblem(listed[row])) {
      return table.Refuse(slice.first_row + static_cast<int64_t>(row), "listed_at", why);
    }
  }
  const std::vector<int64_t>& ids = slice.columns[0].ints;
  if (const auto none = std::ranges::find(ids, -1); none != ids.end()) {
    return table.Refuse(slice.first_row + (none - ids.begin()), "item_id",
                        "is -1, which stands for no item");
  }
  items->ids.insert(items->ids.end(), ids.begin(), ids.end());
  items->listed_at.insert(items->listed_at.end(), listed.begin(), listed.end());
  size_t column = 2;
  for (size_t f = 0; f < items->features.size(); ++f, ++column) {
    std::vector<int32_t>& codes = items->features[f];
    const size_t before = codes.size();
    codes.resize(before + ids.size());
    const auto bad =
        items->vocabularies[f].Encode(slice.columns[column].text, std::span(codes).subspan(before));
    if (bad) return table.Refuse(slice.first_row + *bad, items->feature_names[f], "is not UTF-8");
  }
  for (std::vector<float>& values : items->numerics) {
    const std::vector<float>& slice_values = slice.columns[column++].reals;
    values.insert(values.end(), slice_values.begin(), slice_values.end());
  }
  return absl::OkStatus();
}

// `titles` is nullptr if there are none.
absl::StatusOr<RawItems> ReadItems(const RawTable& table, StringFile* titles) {
  arrow::util::InitializeUTF8();
  RawItems items;
  items.feature_names = table.NamesWithPrefix("feat_");
  items.numeric_names = table.NamesWithPrefix("num_");
  items.features.resize(items.feature_names.size());
  items.vocabularies.resize(items.feature_names.size());
  items.numerics.resize(items.numeric_names.size());

  std::vector<RawColumn> columns = {{"item_id", RawKind::kInt}, {"listed_at", RawKind::kInt}};
  for (const auto& name : items.feature_names) columns.push_back({name, RawKind::kText});
  for (const auto& name : items.numeric_names) columns.push_back({name, RawKind::kFeature});
  if (titles != nullptr) columns.push_back({"title", RawKind::kText});
  SAVIOR_RETURN_IF_ERROR(table.Check(columns));

  Progress progress("items", table.num_rows(), "items");
  const auto visit = [&](const RawSlice& slice) -> absl::Status {
    SAVIOR_RETURN_IF_ERROR(AppendSlice(table, slice, &items));
    if (titles != nullptr) {
      SAVIOR_RETURN_IF_ERROR(AppendTitles(table, slice, slice.columns.back().text, titles));
    }
    progress.Update(slice.first_row + slice.rows);
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(table.Scan(columns, kSliceRows, visit));
  progress.Finish();
  return items;
}

template <typename T>
std::vector<T> Gather(const std::vector<T>& values, const std::vector<size_t>& order) {
  std::vector<T> gathered;
  gathered.reserve(order.size());
  for (const size_t from : order) gathered.push_back(values[from]);
  return gathered;
}

absl::Status WriteItems(RawItems items, const std::vector<size_t>& order,
                        std::vector<int32_t> contents, StringFile* titles, PrepareWork* work) {
  LogSchema& schema = work->manifest.schema;
  ColumnSet file;
  file.AddValues("item_id", Gather(items.ids, order));
  file.AddValues("listed_at", Gather(items.listed_at, order));
  file.AddValues("content", std::move(contents));
  for (size_t f = 0; f < items.features.size(); ++f) {
    auto vocabulary = items.vocabularies[f].Finish();
    std::vector<int32_t> codes = Gather(items.features[f], order);
    for (int32_t& code : codes) code = vocabulary.final_code[static_cast<size_t>(code)];
    file.AddValues(items.feature_names[f], std::move(codes));
    schema.item_features.push_back({items.feature_names[f], std::move(vocabulary.values)});
  }
  for (size_t f = 0; f < items.numerics.size(); ++f) {
    file.AddValues(items.numeric_names[f], Gather(items.numerics[f], order));
  }
  schema.item_numerics = items.numeric_names;

  StringFile ordered(work->scratch / "titles-ordered");
  if (titles != nullptr) {
    for (const size_t from : order) ordered.Append(titles->At(from));
    SAVIOR_RETURN_IF_ERROR(ordered.Close());
    file.Add("title", ordered.ToArray());
  }
  return file.Write(work->folder / "items.arrow");
}

}  // namespace

absl::Status PrepareItems(const RawTable& items, const RawTable& vectors, PrepareWork* work) {
  StringFile titles(work->scratch / "titles");
  StringFile* const titles_or_null = items.Has("title") ? &titles : nullptr;
  SAVIOR_ASSIGN_OR_RETURN(RawItems raw, ReadItems(items, titles_or_null));
  SAVIOR_RETURN_IF_ERROR(titles.Close());
  if (!std::in_range<int32_t>(raw.ids.size())) {
    return items.RefuseColumn("item_id", "has more rows than 2^31, the most that a log holds");
  }
  std::vector<size_t> order(raw.ids.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&raw](size_t a, size_t b) { return raw.ids[a] < raw.ids[b]; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (raw.ids[order[i - 1]] != raw.ids[order[i]]) continue;
    return items.Refuse(static_cast<int64_t>(order[i]), "item_id",
                        absl::StrCat(raw.ids[order[i]], " is there already, at ",
                                     items.Where(static_cast<int64_t>(order[i - 1]))));
  }
  work->items = IdIndex(Gather(raw.ids, order));
  work->manifest.items = work->items.size();
  SAVIOR_ASSIGN_OR_RETURN(std::vector<int32_t> contents, PrepareVectors(vectors, work));
  return WriteItems(std::move(raw), order, std::move(contents), titles_or_null, work);
}

}  // namespace savior
