// The engine's FaultInjectionTestFS with calls on top that fail: those of one kind on one kind of file, on whichever thread. By
// itself it fails everything, or what one thread asks for.

#pragma once

#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "env/io_posix.h"
#include "rocksdb/file_system.h"
#include "utilities/fault_injection_fs.h"

namespace powerloss {

using ROCKSDB_NAMESPACE::DataVerificationInfo;
using ROCKSDB_NAMESPACE::DirFsyncOptions;
using ROCKSDB_NAMESPACE::Env;
using ROCKSDB_NAMESPACE::FaultInjectionTestFS;
using ROCKSDB_NAMESPACE::FileOptions;
using ROCKSDB_NAMESPACE::FSDirectory;
using ROCKSDB_NAMESPACE::FSRandomAccessFile;
using ROCKSDB_NAMESPACE::FSRandomAccessFileOwnerWrapper;
using ROCKSDB_NAMESPACE::FSReadRequest;
using ROCKSDB_NAMESPACE::FSSequentialFile;
using ROCKSDB_NAMESPACE::FSSequentialFileOwnerWrapper;
using ROCKSDB_NAMESPACE::FSWritableFile;
using ROCKSDB_NAMESPACE::FSWritableFileOwnerWrapper;
using ROCKSDB_NAMESPACE::IODebugContext;
using ROCKSDB_NAMESPACE::IOOptions;
using ROCKSDB_NAMESPACE::IOStatus;
using ROCKSDB_NAMESPACE::Slice;

// All as lib.rs numbers them.
enum class Files : uint8_t { kLog, kTable, kBlob, kList, kCurrent, kOptions, kFolder, kOther };
enum class Call : uint8_t { kMake, kWrite, kSync, kRead, kRemove, kRename };
enum class Job : uint8_t { kAny, kCompaction };

struct Fault {
  Files files;
  Call call;
  Job job;           // whose calls
  uint64_t passing;  // calls that still pass
  uint64_t times;    // calls that fail after those
  int error;         // what the system says
};

// What fails, and how many calls there were.
class Faults {
 public:
  void Inject(const Fault& fault) {
    std::lock_guard<std::mutex> lock(mutex_);
    fault_ = fault;
    met_ = 0;
  }

  void Mend() {
    std::lock_guard<std::mutex> lock(mutex_);
    fault_.reset();
  }

  uint64_t Met() {
    std::lock_guard<std::mutex> lock(mutex_);
    return met_;
  }

  uint64_t Calls(Files files, Call call) {
    std::lock_guard<std::mutex> lock(mutex_);
    return calls_[{files, call}];
  }

  // Whether writes of tables wait.
  void HoldTables(bool held) {
    std::lock_guard<std::mutex> lock(mutex_);
    tables_held_ = held;
    let_go_.notify_all();
  }

  IOStatus Meet(Call call, const std::string& path) { return Meet(KindOf(path), call, path, IOOptions()); }

  IOStatus Meet(Call call, const std::string& path, const IOOptions& options) {
    return Meet(KindOf(path), call, path, options);
  }

  // Counts the call, and fails it if it is its turn, in the words that the engine has for such a failure.
  IOStatus Meet(Files files, Call call, const std::string& path, const IOOptions& options) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (files == Files::kTable && call == Call::kWrite) let_go_.wait(lock, [&] { return !tables_held_; });
    ++calls_[{files, call}];
    if (!fault_ || fault_->files != files || fault_->call != call) return IOStatus::OK();
    bool is_of_job = fault_->job == Job::kAny || options.io_activity == Env::IOActivity::kCompaction;
    if (!is_of_job) return IOStatus::OK();
    if (fault_->passing > 0) {
      --fault_->passing;
      return IOStatus::OK();
    }
    if (fault_->times == 0) return IOStatus::OK();
    --fault_->times;
    ++met_;
    return ROCKSDB_NAMESPACE::IOError(Words(call), path, fault_->error);
  }

 private:
  static Files KindOf(const std::string& path) {
    std::string_view name(path);
    name.remove_prefix(name.rfind('/') + 1);
    if (name.ends_with(".log")) return Files::kLog;
    if (name.ends_with(".sst")) return Files::kTable;
    if (name.ends_with(".blob")) return Files::kBlob;
    if (name.starts_with("MANIFEST-")) return Files::kList;
    if (name.starts_with("OPTIONS-")) return Files::kOptions;  // before it has its name, too
    return name == "CURRENT" || name.ends_with(".dbtmp") ? Files::kCurrent : Files::kOther;
  }

  static const char* Words(Call call) {
    switch (call) {
      case Call::kMake:
        return "While open a file for appending";
      case Call::kWrite:
        return "While appending to file";
      case Call::kSync:
        return "While fdatasync";
      case Call::kRead:
        return "While pread";
      case Call::kRemove:
        return "while unlink() file";
      case Call::kRename:
        return "While renaming a file to";
    }
    return "";
  }

  std::mutex mutex_;
  std::optional<Fault> fault_;
  uint64_t met_ = 0;
  bool tables_held_ = false;
  std::condition_variable let_go_;
  std::map<std::pair<Files, Call>, uint64_t> calls_;
};

class WritableFile : public FSWritableFileOwnerWrapper {
 public:
  WritableFile(std::unique_ptr<FSWritableFile>&& file, Faults& faults, std::string path)
      : FSWritableFileOwnerWrapper(std::move(file)), faults_(faults), path_(std::move(path)) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* context) override {
    IOStatus met = Write(data, options, context);
    return met.ok() ? FSWritableFileOwnerWrapper::Append(data, options, context) : met;
  }

  IOStatus Append(const Slice& data, const IOOptions& options, const DataVerificationInfo& info,
                  IODebugContext* context) override {
    IOStatus met = Write(data, options, context);
    return met.ok() ? FSWritableFileOwnerWrapper::Append(data, options, info, context) : met;
  }

  IOStatus Sync(const IOOptions& options, IODebugContext* context) override {
    IOStatus met = faults_.Meet(Call::kSync, path_, options);
    return met.ok() ? FSWritableFileOwnerWrapper::Sync(options, context) : met;
  }

  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override {
    IOStatus met = faults_.Meet(Call::kSync, path_, options);
    return met.ok() ? FSWritableFileOwnerWrapper::Fsync(options, context) : met;
  }

 private:
  // A write that fails has written a part all the same.
  IOStatus Write(const Slice& data, const IOOptions& options, IODebugContext* context) {
    IOStatus met = faults_.Meet(Call::kWrite, path_, options);
    if (!met.ok()) {
      Slice part(data.data(), data.size() / 2);
      FSWritableFileOwnerWrapper::Append(part, options, context).PermitUncheckedError();
    }
    return met;
  }

  Faults& faults_;
  const std::string path_;
};

class RandomAccessFile : public FSRandomAccessFileOwnerWrapper {
 public:
  RandomAccessFile(std::unique_ptr<FSRandomAccessFile>&& file, Faults& faults, std::string path)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), faults_(faults), path_(std::move(path)) {}

  IOStatus Read(uint64_t offset, size_t length, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* context) const override {
    IOStatus met = faults_.Meet(Call::kRead, path_);
    if (met.ok()) return FSRandomAccessFileOwnerWrapper::Read(offset, length, options, result, scratch, context);
    *result = Slice();
    return met;
  }

  // The system fails each read by itself.
  IOStatus MultiRead(FSReadRequest* requests, size_t count, const IOOptions& options,
                     IODebugContext* context) override {
    for (size_t i = 0; i < count; i++) {
      FSReadRequest& request = requests[i];
      request.status = Read(request.offset, request.len, options, &request.result, request.scratch, context);
    }
    return IOStatus::OK();
  }

 private:
  Faults& faults_;
  const std::string path_;
};

class SequentialFile : public FSSequentialFileOwnerWrapper {
 public:
  SequentialFile(std::unique_ptr<FSSequentialFile>&& file, Faults& faults, std::string path)
      : FSSequentialFileOwnerWrapper(std::move(file)), faults_(faults), path_(std::move(path)) {}

  IOStatus Read(size_t length, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* context) override {
    IOStatus met = faults_.Meet(Call::kRead, path_);
    if (met.ok()) return FSSequentialFileOwnerWrapper::Read(length, options, result, scratch, context);
    *result = Slice();
    return met;
  }

 private:
  Faults& faults_;
  const std::string path_;
};

class Directory : public FSDirectory {
 public:
  Directory(std::unique_ptr<FSDirectory>&& folder, Faults& faults, std::string path)
      : folder_(std::move(folder)), faults_(faults), path_(std::move(path)) {}

  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override {
    IOStatus met = faults_.Meet(Files::kFolder, Call::kSync, path_, options);
    return met.ok() ? folder_->Fsync(options, context) : met;
  }

  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* context,
                               const DirFsyncOptions& why) override {
    IOStatus met = faults_.Meet(Files::kFolder, Call::kSync, path_, options);
    return met.ok() ? folder_->FsyncWithDirOptions(options, context, why) : met;
  }

  IOStatus Close(const IOOptions& options, IODebugContext* context) override {
    return folder_->Close(options, context);
  }

  size_t GetUniqueId(char* id, size_t size) const override { return folder_->GetUniqueId(id, size); }

 private:
  std::unique_ptr<FSDirectory> folder_;
  Faults& faults_;
  const std::string path_;
};

class FailingFS : public FaultInjectionTestFS {
 public:
  using FaultInjectionTestFS::FaultInjectionTestFS;

  Faults& faults() { return faults_; }

  IOStatus NewWritableFile(const std::string& path, const FileOptions& options, std::unique_ptr<FSWritableFile>* file,
                           IODebugContext* context) override {
    IOStatus status = faults_.Meet(Call::kMake, path);
    if (status.ok()) status = FaultInjectionTestFS::NewWritableFile(path, options, file, context);
    if (status.ok()) *file = std::make_unique<WritableFile>(std::move(*file), faults_, path);
    return status;
  }

  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions& options,
                               std::unique_ptr<FSRandomAccessFile>* file, IODebugContext* context) override {
    IOStatus status = FaultInjectionTestFS::NewRandomAccessFile(path, options, file, context);
    if (status.ok()) *file = std::make_unique<RandomAccessFile>(std::move(*file), faults_, path);
    return status;
  }

  IOStatus NewSequentialFile(const std::string& path, const FileOptions& options,
                             std::unique_ptr<FSSequentialFile>* file, IODebugContext* context) override {
    IOStatus status = FaultInjectionTestFS::NewSequentialFile(path, options, file, context);
    if (status.ok()) *file = std::make_unique<SequentialFile>(std::move(*file), faults_, path);
    return status;
  }

  IOStatus NewDirectory(const std::string& path, const IOOptions& options, std::unique_ptr<FSDirectory>* folder,
                        IODebugContext* context) override {
    IOStatus status = FaultInjectionTestFS::NewDirectory(path, options, folder, context);
    if (status.ok()) *folder = std::make_unique<Directory>(std::move(*folder), faults_, path);
    return status;
  }

  IOStatus DeleteFile(const std::string& path, const IOOptions& options, IODebugContext* context) override {
    IOStatus met = faults_.Meet(Call::kRemove, path);
    return met.ok() ? FaultInjectionTestFS::DeleteFile(path, options, context) : met;
  }

  // A file is of the kind of its new name.
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* context) override {
    IOStatus met = faults_.Meet(Call::kRename, to);
    return met.ok() ? FaultInjectionTestFS::RenameFile(from, to, options, context) : met;
  }

 private:
  Faults faults_;
};

}  // namespace powerloss
