{{/* The Corefile that `servers` and `extraConfig` stand for, laid out as kubeadm's is. */}}
{{- define "clusterdns.corefile" -}}
{{- range $word, $line := .Values.extraConfig }}
{{- include "clusterdns.directive" (dict "indent" 0 "line" (set (deepCopy ($line | default dict)) "name" $word)) }}
{{ end }}
{{- range .Values.servers }}
{{- $port := .port | default 53 | int }}
{{- $keys := list }}
{{- range .zones | default (list (dict)) }}
{{- $keys = append $keys (printf "%s%s:%d" (.scheme | default "") (.zone | default ".") $port) }}
{{- end }}
{{- join " " $keys }} {
{{- range .plugins }}
{{ include "clusterdns.directive" (dict "indent" 4 "line" .) }}
{{- end }}
}
{{ end }}
{{- end -}}

{{/* One directive: name, parameters, block. Takes `indent` and `line`. */}}
{{- define "clusterdns.directive" -}}
{{- repeat (int .indent) " " }}{{ .line.name }}
{{- if hasKey .line "parameters" }}{{ with include "clusterdns.word" .line.parameters }} {{ . }}{{ end }}{{ end }}
{{- with .line.configBlock }} {
{{ . | trimSuffix "\n" | indent (int (add $.indent 3)) }}
{{ repeat (int $.indent) " " }}}
{{- end -}}
{{- end -}}

{{/* A parameter as text. Numbers of a values file are floats: 1000000 must not become 1e+06. */}}
{{- define "clusterdns.word" -}}
{{- if kindIs "string" . }}{{ . }}{{ else if not (kindIs "invalid" .) }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* A word if a plugin stands in one of the `servers`, else nothing. Takes the root and its name. */}}
{{- define "clusterdns.hasPlugin" -}}
{{- range (index . 0).Values.servers }}{{ range .plugins }}{{ if eq .name (index $ 1) }}yes{{ end }}{{ end }}{{ end -}}
{{- end -}}
