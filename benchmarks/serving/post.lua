-- POST /predict with PICTURES copies of the file PICTURE as multipart parts named 'file'.
local file = assert(io.open(os.getenv("PICTURE"), "rb"))
local data = file:read("*a")
file:close()
local head = '--pupila\r\nContent-Disposition: form-data; name="file"; filename="picture.jpg"\r\n' ..
  "Content-Type: image/jpeg\r\n\r\n"
local parts = {}
for i = 1, tonumber(os.getenv("PICTURES") or "1") do parts[i] = head .. data .. "\r\n" end
wrk.method = "POST"
wrk.headers["X-API-Key"] = "benchmark"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=pupila"
wrk.body = table.concat(parts) .. "--pupila--\r\n"
