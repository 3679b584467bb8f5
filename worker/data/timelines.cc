#include "worker/data/timelines.h"

#include <algorithm>
#include <iterator>

#include "worker/data/log_manifest.h"

namespace savior {

absl::StatusOr<std::unique_ptr<Timelines>> Timelines::Open(
    const std::filesystem::path& folder, const std::vector<int64_t>& first_users) {
  std::unique_ptr<Timelines> timelines(new Timelines());
  SAVIOR_ASSIGN_OR_RETURN(const auto users, MappedColumns::Open(folder / "users.arrow"));
  std::span<const int64_t> counts;
  SAVIOR_RETURN_IF_ERROR(users.Read("user_id", &timelines->user_ids_));
  SAVIOR_RETURN_IF_ERROR(users.Read("behaviours", &counts));
  timelines->users_ = users.batch();

  std::vector<int64_t>& begins = timelines->begins_;
  begins.reserve(counts.size() + 1);
  begins.push_back(0);
  for (const int64_t count : counts) {
    if (count < 0 || count > (int64_t{1} << 48)) return users.Damaged("impossible counts");
    begins.push_back(begins.back() + count);
  }
  const bool ascending = std::is_sorted(first_users.begin(), first_users.end());
  if (!ascending || first_users.empty() || first_users.front() != 0 ||
      first_users.back() > timelines->users()) {
    return users.Damaged("does not fit the manifest's list of timelines");
  }
  timelines->first_users_ = first_users;
  for (size_t part = 0; part < first_users.size(); ++part) {
    const int64_t end_user =
        part + 1 < first_users.size() ? first_users[part + 1] : timelines->users();
    SAVIOR_RETURN_IF_ERROR(timelines->OpenPart(folder / TimelinesName(part),
                                               begins[static_cast<size_t>(first_users[part])],
                                               begins[static_cast<size_t>(end_user)]));
  }
  return timelines;
}

absl::Status Timelines::OpenPart(const std::filesystem::path& path, int64_t begin, int64_t end) {
  SAVIOR_ASSIGN_OR_RETURN(const auto file, MappedColumns::Open(path));
  if (file.rows() != end - begin) return file.Damaged("has not the rows that users.arrow counts");
  Part part{.begin = begin, .behaviours = {}, .mapping = file.batch()};
  SAVIOR_RETURN_IF_ERROR(file.Read("item", &part.behaviours.items));
  SAVIOR_RETURN_IF_ERROR(file.Read("timestamp", &part.behaviours.timestamps));
  SAVIOR_RETURN_IF_ERROR(file.Read("kind", &part.behaviours.kinds));
  parts_.push_back(std::move(part));
  return absl::OkStatus();
}

Timeline Timelines::Of(int64_t user) const {
  const auto after = std::upper_bound(first_users_.begin(), first_users_.end(), user);
  const Part& part = parts_[static_cast<size_t>(std::distance(first_users_.begin(), after)) - 1];
  const auto index = static_cast<size_t>(user);
  const auto begin = static_cast<size_t>(begins_[index] - part.begin);
  const auto count = static_cast<size_t>(begins_[index + 1] - begins_[index]);
  return {.items = part.behaviours.items.subspan(begin, count),
          .timestamps = part.behaviours.timestamps.subspan(begin, count),
          .kinds = part.behaviours.kinds.subspan(begin, count)};
}

}  // namespace savior
